"""A short vector for each gradient embedding that keeps inner products, in expectation.

TensorSketch of an outer product (Pham & Pagh 2013): the CountSketches of a and of h, each a random
signed assignment of coordinates to D buckets, are convolved around a circle of D. The result is a
CountSketch of a ⊗ h, so E⟨s_i, s_j⟩ = ⟨g_i, g_j⟩, with an error of about ‖g_i‖‖g_j‖/√D.
scikit-learn's ``PolynomialCountSketch`` sketches the product of a
vector with itself and takes no second factor, so the convolution is done here, on SciPy's
CountSketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mmselect.arrays import Array, Singles
from mmselect.errors import ParameterError

Hashes: TypeAlias = tuple[Any, ...]
"""A SciPy sparse matrix (width, D) for each factor."""


def sketch_hashes(widths: Sequence[int], dim: int, rng: np.random.Generator) -> Hashes:
    """Draw the assignments that all rows of a pool share.

    Parameters
    ----------
    widths : sequence of int
        Columns of each factor.
    dim : int
        Length D of the sketch.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of (width, D) sparse matrix
        One entry of ±1 in each row.

    Raises
    ------
    ParameterError
        If `dim` is not positive.

    Examples
    --------
    >>> [s.shape for s in sketch_hashes((3, 5), 4, np.random.default_rng(0))]
    [(3, 4), (5, 4)]
    """
    if dim < 1:
        raise ParameterError(f"dim: expected at least 1, found {dim}")
    from scipy import sparse
    from scipy.linalg import clarkson_woodruff_transform

    return tuple(
        sparse.csr_matrix(clarkson_woodruff_transform(sparse.eye(width, format="csc"), dim, rng).T)
        for width in widths
    )


def sketch(factors: Sequence[Array], hashes: Hashes) -> Singles:
    """TensorSketch of some rows.

    Parameters
    ----------
    factors : sequence of (b, width) ndarray
        Such as (a, h).
    hashes : tuple of (width, D) sparse matrix
        From :func:`sketch_hashes`.

    Returns
    -------
    (b, D) ndarray of float32

    Examples
    --------
    >>> hashes = sketch_hashes((2, 3), 8, np.random.default_rng(0))
    >>> a, h = np.array([[1.0, 0.0]]), np.array([[0.0, 2.0, 0.0]])
    >>> sorted(np.abs(sketch((a, h), hashes))[0].round(6).tolist())[-2:]
    [0.0, 2.0]
    """
    from scipy.fft import irfft, rfft

    dim = hashes[0].shape[1]
    spectrum = np.ones((), dtype=np.complex128)
    for factor, buckets in zip(factors, hashes, strict=True):
        spectrum = spectrum * rfft(factor.astype(np.float64) @ buckets, axis=1)
    return np.asarray(irfft(spectrum, dim, axis=1).astype(np.float32))
