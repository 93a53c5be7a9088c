"""A map of the pool: a point in the plane for each of some samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index, Singles

BACKGROUND = {"pca": 5000, "tsne": 2000}
"""Samples of the pool that are drawn, besides the picks and the labeled ones."""

MARKED = 2000
"""Labeled samples that are drawn, at most."""

COMPONENTS = 50
"""Principal components that t-SNE sees."""

EDGE = 1000
"""Whole numbers on each side of the map: finer than a screen, and short as text."""


class Plane(NamedTuple):
    """A projection.

    Attributes
    ----------
    points : (r, 2) integer array
        From 0 to `EDGE`; the longer side fills that, in proportion.
    how : str
        Its name, and what it keeps.
    """

    points: NDArray[np.int64]
    how: str


def spread(rows: Index, most: int) -> Index:
    """Take at most so many rows, evenly spread.

    Examples
    --------
    >>> spread(np.arange(10), 4).tolist(), spread(np.arange(3), 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.intp)]


def project(x: Singles, method: str) -> Plane:
    """Put rows (r, d) on a plane, on one thread: equal rows give equal maps.

    Parameters
    ----------
    x : (r, d) float32 array
        Unit rows of all modalities side by side, centred.
    method : {"pca", "tsne"}
        Two principal components, or t-SNE (van der Maaten and Hinton, 2008) from there.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    if len(x) < 2:
        return Plane(np.full((len(x), 2), EDGE // 2), "nothing: it is alone")
    with threadpool_limits(1):
        size = min(COMPONENTS, *x.shape)
        model = PCA(size, svd_solver="full" if size < 3 else "randomized", random_state=0)
        main = model.fit_transform(x)
        if method == "tsne" and len(x) > 3:
            return Plane(_fitted(_tsne(main)), "t-SNE of the features")
    plane = np.zeros((len(x), 2))
    plane[:, : main.shape[1]] = main[:, :2]
    kept = np.nan_to_num(model.explained_variance_ratio_[:2]).sum()
    how = f"two principal components of the features, {100 * kept:.0f}\u00a0% of their variance"
    return Plane(_fitted(plane), how)


def _tsne(main: Floats) -> Floats:
    from sklearn.manifold import TSNE

    start = main[:, :2] / max(float(main[:, 0].std()), 1e-12) * 1e-4
    if start.shape[1] < 2:
        start = np.pad(start, ((0, 0), (0, 1)))
    model = TSNE(
        perplexity=min(30, (len(main) - 1) / 3), init=start, max_iter=500, angle=0.7, random_state=0
    )
    return np.asarray(model.fit_transform(main.astype(np.float32)), np.float64)


def _fitted(plane: Floats) -> NDArray[np.int64]:
    """Move and scale a plane so that it fills the map."""
    low = plane.min(axis=0)
    size = float((plane.max(axis=0) - low).max()) or 1.0
    return np.asarray(((plane - low) * (EDGE / size)).round().astype(np.int64))
