"""A short vector for each gradient embedding that keeps inner products, in expectation.

TensorSketch of an outer product (Pham & Pagh 2013): the CountSketches of a and of h, each a random
signed assignment of coordinates to D buckets, are convolved around a circle of D. The result is a
CountSketch of a ⊗ h, so E⟨s_i, s_j⟩ = ⟨g_i, g_j⟩, with an error of about ‖g_i‖‖g_j‖/√D, which
:func:`sketch_error` measures. scikit-learn's ``PolynomialCountSketch`` sketches the product of a
vector with itself and takes no second factor, so the convolution is done here, on SciPy's
CountSketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mmselect.arrays import Array, Floats, Singles
from mmselect.core.sampling.gradients import inner_products
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


def sketch_error(factors: Sequence[Array], sketched: Array) -> tuple[float, float]:
    """Measure what a sketch lost, over all pairs of some rows.

    Parameters
    ----------
    factors : sequence of (b, width) ndarray
        Factors of at least two rows.
    sketched : (b, D) ndarray
        Their sketches.

    Returns
    -------
    inner : float
        Root mean square error of ⟨s_i, s_j⟩ as a share of ‖g_i‖‖g_j‖: about √(1/D).
    distance : float
        Root mean square error of ‖s_i − s_j‖² as a share of ‖g_i − g_j‖², over pairs that differ.

    Examples
    --------
    >>> parts = np.eye(2), np.eye(2)
    >>> from mmselect.core.sampling.gradients import full
    >>> sketch_error(parts, full(parts))
    (0.0, 0.0)
    """
    truth = inner_products(factors, factors)
    wide = sketched.astype(np.float64)
    guess = wide @ wide.T
    upper = np.triu_indices(len(truth), 1)
    inner = (guess - truth)[upper] / np.maximum(_lengths(truth)[upper], np.finfo(float).tiny)
    exact, near = _squared(truth)[upper], _squared(guess)[upper]
    apart = exact > 0
    distance = near[apart] / exact[apart] - 1
    return _rms(inner), _rms(distance)


def _lengths(products: Floats) -> Floats:
    norms = np.sqrt(np.diag(products))
    return np.asarray(np.multiply.outer(norms, norms))


def _squared(products: Floats) -> Floats:
    own = np.diag(products)
    return np.asarray(own + own[:, None] - 2 * products)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
