"""Where clusters and parameters begin: k-means++."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Index, Rows
from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.points import feature_points
from mmselect.engine import SERIAL, Engine


def kmeans_plusplus(x: Rows, k: int, rng: np.random.Generator, engine: Engine = SERIAL) -> Index:
    """Distinct rows to start from: the first uniformly, the others by D² sampling.

    Arthur and Vassilvitskii, 2007: each further row with probability D_i² / Σ D², D_i its distance
    to the nearest row drawn so far.

    Parameters
    ----------
    x : (n, d) Rows of float32
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
    first = int(rng.integers(x.shape[0]))
    return d2_sample(
        feature_points({"x": x}, engine=engine), k, rng, first=first, engine=engine
    ).indices
