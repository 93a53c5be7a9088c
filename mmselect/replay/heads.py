"""The linear heads of a replay: one on each modality and one on all, refitted in every round.

Multinomial logistic regression with an L2 penalty (scikit-learn), on features scaled per modality
to a mean squared entry of 1. Where samples have shares of several classes, the heads are
multi-label: a logistic regression for each class, with the shares as soft targets, under one
penalty. The penalty is chosen once, on the first labeled samples, and every fit starts from the
heads of the round before.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from mmselect.errors import SelectionError

C_GRID = tuple(10.0**power for power in range(-5, 7))
"""Inverse strengths of the penalty (scikit-learn's C) that cross-validation chooses from."""

FLAT = 0.02
"""Losses count as equal within this share of what the best gains over the strongest penalty."""

FOLDS = 5
MOST_STEPS = 5000
CHOICE_STEPS = 200
"""Most steps of a multi-label fit by which a penalty is judged: weak ones never come to an end."""

TOLERANCE = 1e-6
"""Gradient at which a fit ends. At scikit-learn's 1e-4 an accuracy still depends, by up to half a
point, on where the fit began."""

UNSEEN = -1e3
"""Bias of a class without a labeled sample: its probability is 0, in float64 too."""

View: TypeAlias = tuple[str, ...]
"""The modalities that a head sees, sorted; all of them: the fused head."""

Features: TypeAlias = Mapping[str, NDArray[np.float32]]

Targets: TypeAlias = NDArray[Any]
"""Classes (r,) of int64, or shares of all classes (r, c) of float32."""


class Head(NamedTuple):
    """A linear head: logits = features @ weight.T + bias.

    Attributes
    ----------
    weight : (c, d) float64 array
        Over the features as the pool has them, modalities side by side.
    bias : (c,) float64 array
    converged : bool
        Whether the fit came to an end by itself.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    converged: bool = True

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Classes that have a labeled sample."""
        return np.asarray(self.bias != UNSEEN)


def views(modalities: Sequence[str]) -> list[View]:
    """All modalities together, then each alone.

    Examples
    --------
    >>> views(["image", "text"])
    [('image', 'text'), ('image',), ('text',)]
    >>> views(["image"])
    [('image',)]
    """
    names = sorted(modalities)
    return list(dict.fromkeys([tuple(names), *((name,) for name in names)]))


Present: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""Which samples have a modality; one that is not named is there for all."""


def scales(features: Features, present: Present | None = None) -> dict[str, float]:
    """Factor per modality that makes the mean squared entry 1 over the samples that have it.

    It is 1 where all are zero.

    Examples
    --------
    >>> scales({"image": np.array([[3.0, 4.0]])})["image"].__round__(6)
    0.282843
    """
    # summed in float64: squares may not fit float32
    known = {m: z[present[m]] if present and m in present else z for m, z in features.items()}
    power = {
        name: float(np.square(z, dtype=np.float64).mean()) if len(z) else 0.0
        for name, z in known.items()
    }
    return {name: p**-0.5 if p > 0 else 1.0 for name, p in power.items()}


def side_by_side(features: Features, view: View, rows: Any = slice(None)) -> NDArray[np.float32]:
    """Features of some modalities, concatenated: (r, Σd)."""
    return np.hstack([features[name][rows] for name in view])


def logits(features: Features, view: View, head: Head) -> NDArray[np.float32]:
    """Logits (n, c) of a head on all samples."""
    return np.asarray(side_by_side(features, view) @ head.weight.T + head.bias, np.float32)


def by_modality(features: Features, view: View, head: Head) -> dict[str, NDArray[np.float64]]:
    """Cut a head's weight into one block (c, d) of columns per modality."""
    ends = np.cumsum([features[name].shape[1] for name in view])[:-1]
    return dict(zip(view, np.split(head.weight, ends, axis=1), strict=True))


def fit_heads(
    features: Features,
    rows: NDArray[np.intp],
    labels: Targets,
    classes: int,
    penalties: Mapping[View, float],
    scale: Mapping[str, float],
    before: Mapping[View, Head] | None = None,
    present: Present | None = None,
) -> dict[View, Head]:
    """Fit every head on the labeled samples; that of a modality on those who have it.

    A head of a modality that labeled samples of two classes do not have says the one class that
    there is, or nothing.

    Parameters
    ----------
    features : mapping of modality to (n, d) array
    rows : (r,) integer array
        The labeled samples.
    labels : (r,) integer array, or (r, c) float array
        Their classes, or the share of each.
    classes : int
        c; a class that is not among `labels` gets probability 0.
    penalties, scale
        From `choose_penalties` and `scales`.
    before : mapping of view to Head, optional
        Where the fits start.
    present : mapping of modality to (n,) boolean array, optional
        Which samples have it; the features of the others are zeros.

    Raises
    ------
    SelectionError
        If all labeled samples are of one class.
    """
    heads = {}
    for view, c in penalties.items():
        own = _own(view, rows, present)
        x, y = side_by_side(features, view, rows[own]), labels[own]
        factors = _factors(features, view, scale)
        warm = before[view] if before else None
        if len(y) < len(rows) and not _fits(y):
            heads[view] = _constant(y, classes, x.shape[1])
        else:
            heads[view] = _fit(x, y, classes, c, factors, warm)
    return heads


def _own(view: View, rows: NDArray[np.intp], present: Present | None) -> NDArray[np.bool_]:
    """Which of some samples a head is fitted on: that of a modality on those who have it."""
    if present is None or len(view) != 1 or view[0] not in present:
        return np.ones(len(rows), bool)
    own: NDArray[np.bool_] = present[view[0]][rows]
    return own


def _fits(labels: Targets) -> bool:
    """Whether a head can be fitted to these labels."""
    return len(labels) > 0 if labels.ndim == 2 else len(np.unique(labels)) > 1


def _constant(labels: Targets, classes: int, width: int) -> Head:
    """Make the head of too few samples: the class that they have, or all classes alike."""
    bias = np.zeros(classes)
    if len(labels):
        bias[:] = UNSEEN
        bias[labels[0]] = 0.0
    return Head(np.zeros((classes, width)), bias)


def _factors(features: Features, view: View, scale: Mapping[str, float]) -> NDArray[np.float32]:
    """Scale every column by its modality's factor."""
    return np.concatenate([np.full(features[m].shape[1], scale[m], np.float32) for m in view])


def _fit(
    x: NDArray[np.float32],
    y: Targets,
    classes: int,
    c: float,
    factors: NDArray[np.float32],
    warm: Head | None = None,
    most: int = MOST_STEPS,
) -> Head:
    if y.ndim == 2:
        return _fit_shares(x, y, c, factors, warm, most)
    seen = np.unique(y)
    if len(seen) < 2:
        message = "expected labeled samples of at least 2 classes to fit a head, found 1 class"
        raise SelectionError(message)
    model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=most, warm_start=True)
    if warm is not None:
        model.coef_, model.intercept_ = _to_sklearn(warm, seen, factors)
    _quietly(model.fit, x * factors, y)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, UNSEEN)
    two = len(seen) == 2  # scikit-learn keeps one row then: the log odds of the second class
    weight[seen] = np.outer([-0.5, 0.5], model.coef_[0]) if two else model.coef_
    bias[seen] = np.array([-0.5, 0.5]) * model.intercept_ if two else model.intercept_
    return Head(weight * factors, bias, int(np.max(model.n_iter_)) < most)


def _fit_shares(
    x: NDArray[np.float32],
    shares: NDArray[Any],
    c: float,
    factors: NDArray[np.float32],
    warm: Head | None,
    most: int,
) -> Head:
    """Minimise the mean of Σ BCE plus ‖W‖²/(2 C r), as scikit-learn weighs the two, by L-BFGS."""
    seen = np.flatnonzero(shares.any(axis=0))
    z = np.hstack([x * factors, np.ones((len(x), 1), np.float32)], dtype=np.float64)
    y = shares[:, seen].astype(np.float64)
    shape, decay = (len(seen), z.shape[1]), 1 / (c * len(x))
    start = np.zeros(shape)
    if warm is not None:
        start[:, :-1] = warm.weight[seen] / factors
        start[:, -1] = np.where(warm.bias[seen] == UNSEEN, 0.0, warm.bias[seen])

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = flat.reshape(shape)
        f, penalised = z @ w.T, w * ([1.0] * (shape[1] - 1) + [0.0])
        value = (np.logaddexp(0, f) - y * f).sum() / len(z) + decay / 2 * np.square(penalised).sum()
        gradient = (expit(f) - y).T @ z / len(z) + decay * penalised
        return float(value), gradient.ravel()

    how = {"maxiter": most, "gtol": TOLERANCE, "ftol": 1e-12}
    found = minimize(loss, start.ravel(), method="L-BFGS-B", jac=True, options=how)
    weight, bias = np.zeros((shares.shape[1], x.shape[1])), np.full(shares.shape[1], UNSEEN)
    fitted = found.x.reshape(shape)
    weight[seen], bias[seen] = fitted[:, :-1], fitted[:, -1]
    return Head(weight * factors, bias, bool(found.nit < most))


def _to_sklearn(
    head: Head, seen: NDArray[np.int64], factors: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn a head back into the coefficients of the classes seen now; a new class starts at 0."""
    weight = head.weight[seen] / factors
    bias = np.where(head.bias[seen] == UNSEEN, 0.0, head.bias[seen])
    return (np.diff(weight, axis=0), np.diff(bias)) if len(seen) == 2 else (weight, bias)


def _quietly(fit: Any, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
    """Fit without scikit-learn's warnings about what is normal here or is reported elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        warnings.filterwarnings("ignore", "lbfgs failed to converge")
        fit(x, y)


def choose_penalties(
    features: Features,
    rows: NDArray[np.intp],
    labels: Targets,
    classes: int,
    scale: Mapping[str, float],
    seed: int,
    present: Present | None = None,
) -> dict[View, float]:
    """Choose each head's penalty by cross-validation on the first labeled samples.

    The log loss decides, over the held-out samples whose class the other folds have. Where it
    hardly changes any more (samples that a line separates), the strongest of those penalties is
    taken, so that no head ends at the weak edge of the grid. Parameters as for `fit_heads`.

    Returns
    -------
    dict of view to float
        scikit-learn's C. 1 where the samples are too few to hold any out.
    """
    chosen = {}
    for view in views(list(features)):
        own = _own(view, rows, present)
        x, factors = side_by_side(features, view, rows[own]), _factors(features, view, scale)
        loss = _held_out_losses(x, labels[own], classes, factors, seed)
        equal = loss <= loss.min() + FLAT * (loss[0] - loss.min())
        chosen[view] = C_GRID[int(equal.argmax())] if loss.any() else 1.0
    return chosen


def _held_out_losses(
    x: NDArray[np.float32], labels: Targets, classes: int, factors: NDArray[np.float32], seed: int
) -> NDArray[np.float64]:
    """Log loss of each penalty of the grid over all folds; zeros where nothing can be held out."""
    loss = np.zeros(len(C_GRID))
    if len(x) < 2:
        return loss
    most = CHOICE_STEPS if labels.ndim == 2 else MOST_STEPS
    shuffled = KFold(min(FOLDS, len(x)), shuffle=True, random_state=seed % 2**32)
    for fit, held in shuffled.split(x):
        held = _known(labels, fit, held)
        if not len(held):
            continue
        head = None
        for i, c in enumerate(C_GRID):
            head = _fit(x[fit], labels[fit], classes, c, factors, head, most)
            loss[i] += _log_loss(head, x[held], labels[held])
    return loss


def _known(labels: Targets, fit: NDArray[np.intp], held: NDArray[np.intp]) -> NDArray[np.intp]:
    """Held-out samples that a head fitted on the others can know; none where it fits no head."""
    if labels.ndim == 2:
        return held
    several = len(np.unique(labels[fit])) > 1
    return held[np.isin(labels[held], labels[fit])] if several else held[:0]


def _log_loss(head: Head, x: NDArray[np.float32], y: Targets) -> float:
    f = x @ head.weight.T + head.bias
    if y.ndim == 2:  # over the classes that the head knows: of others it is sure, and wrong
        return float((np.logaddexp(0, f) - y * f)[:, head.seen].sum())
    f -= f.max(axis=1, keepdims=True)
    return float((np.log(np.exp(f).sum(axis=1)) - f[np.arange(len(y)), y]).sum())
