"""Distance to the decision boundary of a linear head: DeepFool, with nothing to iterate."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Array, Floats
from mmselect.core.scores.softmax import check_logits
from mmselect.engine import blas_threads
from mmselect.errors import DataError, ParameterError

CANCELLED = 1e-6
"""A squared distance below this share of the squared norms is computed from the difference."""


def class_distances(weight: Array) -> Floats:
    """‖W_a − W_b‖ for all pairs of classes, from W Wᵀ.

    The rows are centred first, and where a distance is small beside the norms it is computed from
    the difference itself, so equal rows are exactly 0 apart.

    Parameters
    ----------
    weight : (c, D) ndarray
        A linear head in the layout of ``nn.Linear``; blocks of several modalities side by side.

    Returns
    -------
    (c, c) ndarray of float64

    Raises
    ------
    ParameterError
        If there are fewer than two classes.
    DataError
        If a weight is nan or infinite.

    Examples
    --------
    >>> class_distances(np.array([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    if len(weight) < 2:
        raise ParameterError(f"weight: expected at least two classes, found {len(weight)}")
    wide = weight.astype(np.float64)
    largest = float(np.abs(wide).max(initial=0))
    if not np.isfinite(largest):
        raise DataError("expected finite weights, found nan or infinity")
    # Squares of large weights would leave float64; a power of two costs no digit.
    scale = 2.0 ** (np.frexp(largest)[1] - 1)
    wide /= scale
    centred = wide - wide.mean(axis=0)
    with blas_threads():
        gram = centred @ centred.T
    norms = gram.diagonal()
    size = norms[:, None] + norms
    squared = size - 2 * gram
    for a, near in enumerate(squared <= CANCELLED * size):
        squared[a, near] = np.square(wide[near] - wide[a]).sum(axis=1)
    distances: Floats = scale * np.sqrt(squared)
    return distances


def deepfool(logits: Array, distances: Floats) -> Floats:
    """Distance of each sample to where a linear head changes its mind.

    ``min_{k ≠ y} (f_y − f_k) / ‖W_y − W_k‖`` with y = argmax f: the shortest step in feature space
    that makes another class as large (Moosavi-Dezfooli et al., *DeepFool*, CVPR 2016, Sec. 2.2; as
    a query Ducoffe and Precioso, 2018). For a linear head this is exact after one step.

    Parameters
    ----------
    logits : (n, c) ndarray of float16, float32 or float64
        Of the head, ``W z + b``; ``-inf`` masks a class.
    distances : (c, c) ndarray of float64
        From :func:`class_distances`. Classes 0 apart never change places and are left out.

    Returns
    -------
    (n,) ndarray of float64
        In the unit of the features; inf where no other class can become as large.

    Raises
    ------
    ParameterError
        If the numbers of classes differ, or there is one class only.
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> deepfool(np.array([[2.0, 1.0]]) @ weight.T, class_distances(weight)).round(4).tolist()
    [0.7071]
    """
    c = logits.shape[1]
    if c < 2 or distances.shape != (c, c):
        expected = "at least two classes, the same as the weights'"
        raise ParameterError(f"logits: expected {expected}, found {c} and {distances.shape[0]}")
    f = logits.astype(np.float64)
    y = f.argmax(axis=1)
    top = np.take_along_axis(f, y[:, None], axis=1)
    check_logits(top[:, 0])
    apart = distances[y]
    steps = np.divide(top - f, apart, out=np.full(f.shape, np.inf), where=apart > 0)
    nearest: Floats = steps.min(axis=1, initial=np.inf)
    return nearest
