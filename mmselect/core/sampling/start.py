"""Where clusters and parameters begin: k-means++ over rows in memory."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Index, Singles
from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.points import feature_points
from mmselect.engine import SERIAL, Engine


def kmeans_plusplus(x: Singles, k: int, rng: np.random.Generator, engine: Engine = SERIAL) -> Index:
    """Distinct rows to start from: the first uniformly, the others by D² sampling.

    Arthur and Vassilvitskii, 2007: each further row with probability D_i² / Σ D², D_i its distance
    to the nearest row drawn so far.

    Parameters
    ----------
    x : (n, d) ndarray of float32
    k : int
        At most n.
    rng : numpy.random.Generator
    engine : Engine

    Returns
    -------
    (k,) ndarray of int

    Examples
    --------
    >>> x = np.array([[0.0], [0.1], [9.0]], np.float32)
    >>> int(2 in kmeans_plusplus(x, 2, np.random.default_rng(0)))
    1
    """
    first = int(rng.integers(len(x)))
    return d2_sample(feature_points({"x": x}), k, rng, first=first, engine=engine).indices
