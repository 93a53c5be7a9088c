"""MMCSAL and ActiveFT: optimise k free points on the pool's sphere, then take what is nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.chosen import Chosen
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.matching import match_distinct
from mmselect.core.features import Features, checked, inverse, row_norms
from mmselect.core.joined import Joined, joined
from mmselect.core.limits import check_limits
from mmselect.core.parametric.assignment import Assignment
from mmselect.core.parametric.objective import Matrix, Terms, Weights, value_and_gradient
from mmselect.core.parametric.solvers import Descent, adam, lbfgs
from mmselect.core.presence import Present
from mmselect.core.sampling.start import kmeans_plusplus
from mmselect.engine import SERIAL, Engine, Progress, blas_threads, silent
from mmselect.errors import ParameterError, SchemaError

OWNERLESS_SHARE = 0.1
"""Share of parameters that may own no sample before there is a warning."""

STEPS = {"adam": 300, "lbfgs": 40}
TOLERANCE = 8e-3
"""L-BFGS ends when three steps together lower the loss by less."""

FIRST_STEPS, FIRST_SAMPLES = 8, 5
"""First steps of L-BFGS, which see a part of the samples only, and how many per parameter."""


@dataclass(frozen=True)
class Parametric:
    """Samples nearest to the optimised parameters.

    Attributes
    ----------
    picks : int64 array, shape (k,)
        Distinct rows; number j was matched to parameter j.
    similarity : float64 array, shape (k,)
        Mean cosine of each pick with its parameter.
    initial : int64 array, shape (k,)
        Rows from which the parameters started.
    changed : int
        Picks that are not among the initial rows.
    ownerless : int
        Parameters that are nearest to no sample.
    compared : int
        Samples compared with all parameters, over all steps; the plain form compares n in each.
    history : tuple of Terms
        The loss and its terms at the start and after each step; empty if ``k = n``. L-BFGS starts
        after its first steps, which see a part of the samples only.
    warnings : tuple of str
        Signs of a collapse.
    zero_rows : dict of str to int
        Rows without a direction, per modality: they stay zero, similar to nothing.
    """

    picks: Index
    similarity: Floats
    initial: Index
    changed: int
    ownerless: int
    compared: int
    history: tuple[Terms, ...]
    warnings: tuple[str, ...]
    zero_rows: dict[str, int]


def parametric(
    features: Features,
    k: int,
    rng: np.random.Generator,
    *,
    present: Present | None = None,
    tau: float = 0.07,
    diversity: float = 1.0,
    alignment: float = 1.0,
    align_over_tau: bool = True,
    loss: Literal["paper", "code"] = "paper",
    solver: Literal["adam", "lbfgs"] = "adam",
    steps: int | None = None,
    rate: float = 1e-2,
    init: Literal["uniform", "kmeans++"] = "uniform",
    allowed: Allowed | None = None,
    engine: Engine = SERIAL,
    progress: Progress | None = None,
) -> Parametric:
    """Pick the samples nearest to parameters that minimise ``D - λ_div R - λ_align A``.

    MMCSAL's selection (Shen et al., 2024, Eqs. 5-9); with ``alignment=0`` ActiveFT (Xie et al.,
    2023). The terms are given at :func:`mmselect.core.parametric.objective.value_and_gradient`.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        The candidates; of one width unless `alignment` is 0. Rows are normalised per modality.
    k : int
    rng : numpy.random.Generator
        Draws the initial samples.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality. A row's similarity is the mean cosine over those that it has; a
        parameter that starts at a row begins, where that lacks a modality, at the direction of the
        mean of the others' unit rows.
    tau : float
        Temperature τ.
    diversity, alignment : float
        λ_div and λ_align. The alignment term needs two modalities at least.
    align_over_tau : bool
        Divide the alignment term by τ, as the others are.
    loss : {"paper", "code"}
        What ActiveFT's paper says, or what its released code does.
    solver : {"adam", "lbfgs"}
        Adam with a cosine schedule, as published, or L-BFGS: the same loss, sooner.
    steps : int, optional
        300 for Adam; for L-BFGS at most 40: it ends when three steps together gain less than
        0.008. Up to 8 of them, a quarter at most, see a part of the samples only.
    rate : float
        Adam's first learning rate.
    init : {"uniform", "kmeans++"}
        Start from distinct samples drawn uniformly, or by D² sampling
        (:func:`mmselect.core.sampling.start.kmeans_plusplus`).
    allowed : Allowed, optional
        Which samples may be picked next; told of every pick. It ends the matching, and k is the
        number of parameters then.
    engine : Engine
    progress : callable, optional
        Called with the number of steps made and `steps`.

    Returns
    -------
    Parametric

    Raises
    ------
    SchemaError, DataError, BudgetError, SelectionError
        See :func:`mmselect.core.features.checked` and :func:`mmselect.core.joined.joined`; also
        for the alignment term where there is one modality only, or widths differ.
    ParameterError
        If a parameter is out of range.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((50, 4))
    >>> found = parametric([x, x], 5, np.random.default_rng(1), steps=20)
    >>> len(set(found.picks)), len(found.history)
    (5, 21)
    """
    given = checked(features, k, present=present)
    steps = STEPS.get(solver, 0) if steps is None else steps
    check_limits(tau=tau, diversity=diversity, alignment=alignment, loss=loss)
    check_limits(solver=solver, steps=steps, rate=rate, init=init)
    if loss == "code" and not diversity:
        raise ParameterError("diversity: expected a number above 0 with loss=code, found 0")
    if alignment:
        _check_alignable({name: array.shape[1] for name, array in given.features.items()})
    with blas_threads():
        points = joined(given.features, unit=True, present=given.present, engine=engine)
        weights = Weights(tau, diversity, alignment, loss, align_over_tau, points.offsets)
        how = _How(weights, solver, steps, rate, engine, progress or silent)
        # Where a modality is absent, θ begins at the direction of its mean.
        whole = replace(points, means=tuple(map(_direction, points.means)))
        initial = _draw(whole, k, rng, init, engine)
        theta, x = whole[initial], points
        if given.patterns is not None:
            # θ has all modalities: a product with it becomes the mean over those of the row.
            x = points.lacking(len(given.features) / given.patterns.count)
        assignment = Assignment(x, engine)
        picks, ownerless, history = initial, 0, tuple[Terms, ...]()
        if k < len(x):  # else every sample once, in the order drawn
            history = _descend(assignment, theta, how)
            ownerless = k - len(np.unique(assignment.owner))
        if k < len(x) or allowed is not None:
            picks = match_distinct(x, theta, allowed=allowed, engine=engine)
        own = theta[np.arange(len(picks)) % k]
        similarity = np.einsum("ij,ij->i", x[picks], own, dtype=np.float64)
    return Parametric(
        picks,
        similarity / len(given.features),
        initial,
        int((~np.isin(picks, initial)).sum()),
        ownerless,
        assignment.compared,
        history,
        _warnings(weights, ownerless, k),
        points.zero_rows,
    )


def _direction(mean: Floats) -> Floats:
    direction: Floats = mean * inverse(row_norms(mean[None]))
    return direction


class _How(NamedTuple):
    """How the loss is lowered, and who is told."""

    weights: Weights
    solver: str
    steps: int
    rate: float
    engine: Engine
    progress: Progress


def _descend(assignment: Assignment, theta: Singles, how: _How) -> tuple[Terms, ...]:
    """All steps, moving `theta` in place; L-BFGS takes its first ones on a part of the samples."""
    first, n = 0, assignment.x.shape[0]
    step = max(n // (FIRST_SAMPLES * len(theta)), 1)
    if how.solver == "lbfgs" and step > 1:
        # Far from the minimum, the gradient over a part of the samples is as good a direction.
        first = min(FIRST_STEPS, how.steps // 4)
    if first:
        part = Chosen(assignment.x, np.arange(0, n, step))
        _take_steps(Assignment(part, how.engine), theta, first, how._replace(progress=silent))
    history = _take_steps(assignment, theta, how.steps - first, how)
    assignment.update(theta)  # the last evaluation may have been of a step that was refused
    return tuple(history)


def _take_steps(assignment: Assignment, theta: Singles, steps: int, how: _How) -> list[Terms]:
    x, weights = assignment.x, how.weights

    def evaluate(theta: Singles) -> tuple[Terms, Matrix]:
        owner = assignment.update(theta)
        return value_and_gradient(x, theta, owner, assignment.sums, weights, how.engine)

    def rates() -> Singles:
        # Diagonal Hessian estimate: attraction ∝ share of owned samples, repulsion ∝ 1/k; its
        # inverse is the step.
        share = np.bincount(assignment.owner, minlength=len(theta))[:, None] / x.shape[0]
        return (2 * weights.tau / (share + 1 / len(theta))).astype(np.float32)

    descent = Descent(evaluate, weights.offsets, steps, lambda step: how.progress(step, how.steps))
    if how.solver == "adam":
        return adam(theta, descent, how.rate)
    return lbfgs(theta, descent, rates, TOLERANCE)


def _draw(x: Joined, k: int, rng: np.random.Generator, init: str, engine: Engine) -> Index:
    """Distinct rows to start from."""
    if init == "uniform":
        return rng.choice(len(x), k, replace=False)
    return kmeans_plusplus(x, k, rng, engine)


def _warnings(weights: Weights, ownerless: int, k: int) -> tuple[str, ...]:
    warnings = []
    if weights.alignment > weights.diversity:
        warnings.append(
            f"alignment {weights.alignment:g} is above diversity {weights.diversity:g}: "
            "the loss may be least where all parameters are equal"
        )
    if ownerless > OWNERLESS_SHARE * k:
        warnings.append(
            f"{ownerless:,} of {k:,} parameters are nearest to no sample: "
            "the parameters may have collapsed"
        )
    return tuple(warnings)


def _check_alignable(widths: dict[str, int]) -> None:
    if len(widths) < 2 or len(set(widths.values())) > 1:
        raise SchemaError(
            "the alignment term: expected two or more modalities of one width, "
            f"found widths {widths} (without it, alignment=0, any will do)"
        )
