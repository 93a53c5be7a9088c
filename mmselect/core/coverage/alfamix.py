"""ALFA-Mix: candidates are the samples whose prediction changes when features are mixed.

Parvaneh et al., *Active Learning by Feature Mixing*, CVPR 2022. On a linear head the mix of its
Eq. 7 needs no mixing: everything follows from the logits, W Wᵀ and the distances to the anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    Rows,
    check_budget,
    check_candidates,
    check_labels,
    check_rows,
    same_length,
)
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.highest import take_highest
from mmselect.core.coverage.kmeans import kmeans
from mmselect.core.limits import check_limits
from mmselect.core.presence import Present, cut, patterns_of
from mmselect.core.side_by_side import (
    Usual,
    fill_blocks,
    side_by_side,
    usual_blocks,
    wide_rows,
)
from mmselect.engine import SERIAL, Engine, blas_threads, compute_rows, join_rows, map_rows
from mmselect.errors import DataError, ParameterError, SelectionError

NO_PUSH = 1e-12
"""A rate below this share of the largest is rounding: classes with equal weights have none."""

LARGEST_WEIGHT = 1e150
"""So that W Wᵀ and, with features whose squares fit in float64, W z + b fit in float64."""


class Mixed(NamedTuple):
    """What :func:`alfamix` returns.

    Attributes
    ----------
    picks : (k,) ndarray of int
        Rows in pick order.
    thresholds : (k,) ndarray of float64
        ε* of each pick: how far it is to be mixed until its prediction changes; may be inf.
    epsilon : float
        The step at which it stopped.
    near : int
        Candidates whose prediction changes at that step.
    zero_rows : int
        Of these, rows without a direction.
    """

    picks: Index
    thresholds: Floats
    epsilon: float
    near: int
    zero_rows: int


def alfamix(
    features: Mapping[str, Rows],
    weight: Mapping[str, Array],
    bias: Array | None,
    labels: Index,
    k: int,
    rng: np.random.Generator,
    *,
    labeled: Index,
    candidates: Index | None = None,
    present: Present | None = None,
    cap: float = 0.2,
    iterations: int = 20,
    allowed: Allowed | None = None,
    engine: Engine = SERIAL,
) -> Mixed:
    """Pick `k` diverse samples among those whose prediction a small mix of features changes.

    A sample z is mixed with the anchor a of each class, the mean of the class's labeled samples, at
    the ratio that raises the loss most for a step of ε (Eq. 7): ``z + (ε/√D) ‖a − z‖ ∇/‖∇‖`` with
    ``∇ = Wᵀ(softmax f − e_y)``. Its argmax changes at some anchor as soon as ε is above ε*, see
    :func:`mix_thresholds`. ε grows by `cap` until it is above ε* of more than `k` samples, or is 1;
    then k-means on the unit features of these samples, the nearest to each centre. If they are no
    more than `k`, the picks are the samples of smallest ε*.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        In memory or on disk; side by side they are z, of width D.
    weight : mapping of str to (c, d) ndarray
        The linear head's columns for each modality.
    bias : (c,) ndarray, optional
        None is 0.
    labels : (l,) ndarray of int
        Classes of the labeled rows, from 0 to c − 1.
    k : int
    rng : numpy.random.Generator
        For k-means.
    labeled : (l,) ndarray of int
        Rows; at least one.
    candidates : (r,) ndarray of int, optional
        Rows to pick from, increasing; None is all that are not labeled.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; what is read of the others has to be finite. A row is mixed in
        what it has, by the head on that alone; for anchors and clusters the mean of a modality over
        those that have it stands for it.
    cap : float
        By how much ε grows.
    iterations : int
        Of k-means.
    allowed : Allowed, optional
        Which candidates may be picked next, by position; told of every pick. It ends the selection;
        where no sample with ε* below ε is allowed any more, others follow, smallest ε* first.
    engine : Engine, optional

    Returns
    -------
    Mixed

    Raises
    ------
    ParameterError
        If shapes do not fit together, there are fewer than two classes, or `cap` or `iterations`
        is out of range (:mod:`mmselect.core.limits`).
    SelectionError, BudgetError
        If nothing is labeled, or `k` does not fit the candidates.
    DataError
        If a value cannot be used, or a labeled row has no class (an error without `dataset`).

    Examples
    --------
    The head asks whether the first number is positive; row 2 is nearest to changing sides, and
    row 3 is the other whose prediction a step of 0.6 changes:

    >>> z = np.array([[3.0, 0.0], [-3.0, 0.0], [0.1, 1.0], [2.0, -1.0]])
    >>> head = {"x": np.array([[1.0, 0.0], [-1.0, 0.0]])}
    >>> rng = np.random.default_rng(0)
    >>> found = alfamix({"x": z}, head, None, np.array([0, 1]), 1, rng, labeled=np.array([0, 1]))
    >>> found.picks.tolist(), found.epsilon, found.near
    ([2], 0.6000000000000001, 2)
    """
    n = same_length(list(features.values()))
    candidates = check_candidates(candidates, labeled, n)
    check_budget(k, len(candidates))
    check_limits(cap=cap, iterations=iterations)
    how: dict[str, Any] = {"present": present, "engine": engine}
    thresholds = mix_thresholds(
        features, weight, bias, labels, labeled=labeled, candidates=candidates, **how
    )
    steps = cap * np.arange(1, int(np.ceil(1 / cap - 1e-9)) + 1)
    reached = [int((thresholds < step).sum()) for step in steps]
    last = next((i for i, count in enumerate(reached) if count > k), len(steps) - 1)
    epsilon, near = float(steps[last]), reached[last]
    zero_rows = 0
    if near <= k:
        best = np.argsort(thresholds, kind="stable")[:k]
    else:
        inside = np.flatnonzero(thresholds < epsilon)
        unit, zero_rows = side_by_side(features, candidates[inside], unit="row", **how)
        keep: dict[str, Any] = {"allowed": allowed, "at": inside, "engine": engine}
        best = inside[kmeans([unit], k, rng, iterations=iterations, **keep).picks]
    if allowed is not None:
        best = take_highest(-thresholds, allowed)  # those that are matched already come first
    return Mixed(candidates[best], thresholds[best], epsilon, near, zero_rows)


def mix_thresholds(
    features: Mapping[str, Rows],
    weight: Mapping[str, Array],
    bias: Array | None,
    labels: Index,
    *,
    labeled: Index,
    candidates: Index | None = None,
    present: Present | None = None,
    engine: Engine = SERIAL,
) -> Floats:
    """ε* of each candidate: the step of ALFA-Mix above which its prediction changes.

    ``ε* = s* √D / max_c ‖a_c − z‖`` with ``s* = min (f_y − f_k) ‖∇‖ / ((W_k − W_y)·∇)`` over the
    classes k towards which ∇ leads. ``W ∇ = (W Wᵀ)(softmax f − e_y)``, and only the direction of ∇
    counts, so a sample costs c (c + D) products and nothing of size n × D is made.

    Parameters
    ----------
    features, weight, bias, labels, labeled, candidates, present, engine
        As for :func:`alfamix`, and so are the errors.

    Returns
    -------
    (r,) ndarray of float64
        inf where no mix changes the prediction.

    Examples
    --------
    A step of ε moves z by ε ‖a − z‖ / √D. From 2 to 0, with the farthest anchor at −3, √D = 1:

    >>> head = {"x": np.array([[1.0], [-1.0]])}
    >>> z = {"x": np.array([[5.0], [-3.0], [2.0]])}
    >>> mix_thresholds(z, head, None, np.array([0, 1]), labeled=np.array([0, 1])).tolist()
    [0.4]
    """
    n = same_length(list(features.values()))
    candidates = check_candidates(candidates, labeled, n)
    w, b = _head(features, weight, bias)
    names, sources, masks = list(features), list(features.values()), dict(present or {})
    means = usual_blocks(features, np.union1d(labeled, candidates), masks, engine=engine)
    anchors = _anchors(features, check_rows(labeled, n), labels, len(w), means, engine)
    modality = np.repeat(np.arange(len(names)), [source.shape[1] for source in sources])
    thresholds = np.empty(len(candidates))
    patterns = patterns_of(cut(masks, candidates), names, len(candidates))
    for own, at in patterns.rows():
        columns = np.flatnonzero(np.isin(modality, own))
        mix = _Mix.of([names[m] for m in own], w[:, columns], b, anchors[:, columns])
        step = compute_rows(max(w.shape[1], len(w) + len(anchors)))
        read = [sources[m] for m in own]
        blocks = map_rows(mix, read, candidates[at], step=step, engine=engine)
        (thresholds[at],) = join_rows(blocks, len(at))
    return thresholds


def _head(
    features: Mapping[str, Rows], weight: Mapping[str, Array], bias: Array | None
) -> tuple[Floats, Floats]:
    """W (c, D) and b (c,) in float64, columns in the order of the features."""
    for name, z in features.items():
        found = weight[name].shape if name in weight else "none"
        if name not in weight or weight[name].shape[1] != z.shape[1]:
            raise ParameterError(f"{name}: expected weights (c, {z.shape[1]}), found {found}")
    w = np.concatenate([weight[name] for name in features], axis=1, dtype=np.float64)
    b = np.zeros(len(w)) if bias is None else bias.astype(np.float64)
    if len(w) < 2:
        raise ParameterError(f"weight: expected at least two classes, found {len(w)}")
    if b.shape != (len(w),):
        raise ParameterError(f"bias: expected shape ({len(w)},), found {b.shape}")
    size = float(np.maximum(np.abs(w).max(initial=0), np.abs(b).max()))
    if not size < LARGEST_WEIGHT:  # nan is not
        message = f"expected finite numbers below {LARGEST_WEIGHT:g}, found {size:g}"
        raise DataError(message, dataset="weight and bias of the head")
    return w, b


def _anchors(
    features: Mapping[str, Rows],
    labeled: Index,
    labels: Index,
    classes: int,
    usual: Sequence[Usual],
    engine: Engine,
) -> Floats:
    """Mean of the labeled rows of each class that has any, and of all of them if one has none."""
    if not len(labeled):
        raise SelectionError("expected labeled samples, whose means are the anchors, found none")
    check_labels(labels, labeled, classes)
    counts = np.bincount(labels, minlength=classes)
    names, all_classes = list(features), np.arange(classes)

    def sums(rows: Index, blocks: list[Array]) -> Floats:
        own = labels[np.searchsorted(labeled, rows)]
        wide = wide_rows(names, rows, blocks)
        fill_blocks(wide, rows, usual)
        total: Floats = (own == all_classes[:, None]).astype(np.float64) @ wide
        return total

    width = sum(source.shape[1] for source in features.values())
    step = compute_rows(max(width, classes))
    total = np.zeros((classes, width))
    for part in map_rows(sums, list(features.values()), labeled, step=step, engine=engine):
        total += part
    means = total[counts > 0] / counts[counts > 0, None]
    return means if counts.all() else np.vstack([means, total.sum(axis=0) / len(labeled)])


@dataclass(frozen=True)
class _Mix:
    """Thresholds of a block of rows; origin: features are taken relative to the anchors' mean.

    Attributes
    ----------
    names : list of str
    origin : (D,) ndarray
    towards : (D, c + a) ndarray
        Wᵀ and the anchors less the origin, side by side: one product gives logits and distances.
    bias : (c,) ndarray
        Of the head on features less the origin.
    gram : (c, c) ndarray
        W Wᵀ of centred rows: Σ (softmax f − e_y) = 0, so the mean row has no part in ∇.
    squares : (a,) ndarray
        Squared norms of the anchors less the origin.
    """

    names: list[str]
    origin: Floats
    towards: Floats
    bias: Floats
    gram: Floats
    squares: Floats

    @classmethod
    def of(cls, names: list[str], w: Floats, b: Floats, anchors: Floats) -> _Mix:
        origin = anchors.mean(axis=0)
        around = anchors - origin
        centred = w - w.mean(axis=0)
        towards = np.ascontiguousarray(np.vstack([w, around]).T)
        squares = np.vecdot(around, around)
        with blas_threads():
            return cls(names, origin, towards, w @ origin + b, centred @ centred.T, squares)

    def __call__(self, rows: Index, blocks: list[Array]) -> tuple[Floats]:
        c = len(self.bias)
        z = wide_rows(self.names, rows, blocks) - self.origin
        products = z @ self.towards
        f = products[:, :c] + self.bias
        step = self._steps(f)
        squared = np.vecdot(z, z) + (self.squares - 2 * products[:, c:]).max(axis=1)
        reach = np.sqrt(np.maximum(squared, 0) / z.shape[1])  # how far ε = 1 moves
        return (np.divide(step, reach, out=np.full(len(z), np.inf), where=reach > 0),)

    def _steps(self, f: Floats) -> Floats:
        """s*: how far along ∇/‖∇‖ each row's argmax changes."""
        y = f.argmax(axis=1)[:, None]
        gap = np.take_along_axis(f, y, axis=1) - f
        # Only the direction of softmax f − e_y counts. Relative to 1 − p_y it is the softmax of the
        # other classes, less 1 at y: no digit is lost where the head is certain.
        others = gap.copy()
        np.put_along_axis(others, y, np.inf, axis=1)
        residual = np.exp(others.min(axis=1, keepdims=True) - others)
        residual /= residual.sum(axis=1, keepdims=True)
        np.put_along_axis(residual, y, -1.0, axis=1)
        push = residual @ self.gram
        length = np.sqrt(np.maximum(np.vecdot(residual, push), 0))
        rate = push - np.take_along_axis(push, y, axis=1)
        leads = rate > NO_PUSH * np.abs(push).max(axis=1, keepdims=True)
        steps = np.divide(gap, rate, out=np.full(f.shape, np.inf), where=leads)
        nearest: Floats = steps.min(axis=1)
        return np.multiply(nearest, length, out=nearest, where=length > 0)
