"""MMCSAL and ActiveFT: optimise k free points on the pool's sphere, then take what is nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmselect.core.coverage.matching import match_distinct
from mmselect.core.features import Features, Progress, as_modalities, check_budget, join
from mmselect.core.parametric.assignment import Assignment
from mmselect.core.parametric.objective import Matrix, Terms, Weights, value_and_gradient
from mmselect.core.parametric.solvers import Watch, adam, lbfgs
from mmselect.engine import blas_threads, thread_count
from mmselect.errors import ParameterError, SchemaError

Floats = NDArray[np.float32]

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
    history : tuple of Terms
        The loss and its terms at the start and after each step; empty if ``k = n``. L-BFGS starts
        after its first steps, which see a part of the samples only.
    warnings : tuple of str
        Signs of a collapse.
    zero_rows : dict of str to int
        Rows without a direction, per modality: they stay zero, similar to nothing.
    """

    picks: NDArray[np.int64]
    similarity: NDArray[np.float64]
    initial: NDArray[np.int64]
    changed: int
    ownerless: int
    history: tuple[Terms, ...]
    warnings: tuple[str, ...]
    zero_rows: dict[str, int]


def parametric(
    features: Features,
    k: int,
    rng: np.random.Generator,
    *,
    tau: float = 0.07,
    diversity: float = 1.0,
    alignment: float = 1.0,
    align_over_tau: bool = True,
    loss: Literal["paper", "code"] = "paper",
    solver: Literal["adam", "lbfgs"] = "adam",
    steps: int | None = None,
    rate: float = 1e-2,
    init: Literal["uniform", "kmeans++"] = "uniform",
    threads: int | None = None,
    progress: Progress | None = None,
    watch: Callable[[int, Terms], None] | None = None,
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
        Start from distinct samples drawn uniformly, or by D² sampling.
    threads : int, optional
    progress : callable, optional
        Called with the number of steps made and `steps`.
    watch : callable, optional
        Called with the step and its Terms.

    Returns
    -------
    Parametric

    Raises
    ------
    SchemaError, DataError
        See :func:`mmselect.core.features.join`; also for the alignment term where there is one
        modality only, or widths differ.
    BudgetError, SelectionError
        If `k` does not fit the candidates.
    ParameterError
        If a parameter is out of range.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((50, 4))
    >>> found = parametric([x, x], 5, np.random.default_rng(1), steps=20)
    >>> len(set(found.picks)), len(found.history)
    (5, 21)
    """
    named = as_modalities(features)
    n = len(next(iter(named.values())))
    check_budget(k, n)
    steps = STEPS.get(solver, 0) if steps is None else steps
    _check(tau, diversity, alignment, loss, solver, steps, rate, init)
    if alignment:
        _check_alignable({name: array.shape[1] for name, array in named.items()})
    threads = thread_count(threads)
    with blas_threads(1):
        x, offsets, zero_rows = join(named, threads=threads)
        initial = _draw(x, k, rng, init)
        weights = Weights(tau, diversity, alignment, loss, align_over_tau, offsets)
        theta = x[initial]
        history: list[Terms] = []
        if k < n:

            def watched(step: int, terms: Terms) -> None:
                if watch is not None:
                    watch(step, terms)
                if progress is not None:
                    progress(step, steps)

            assignment = Assignment(x, threads)
            history = _solve(x, theta, assignment, weights, solver, steps, rate, watched, threads)
            if progress is not None:
                progress(steps, steps)
            owner = assignment.owner
            picks = match_distinct(x, theta, threads=threads)
        else:
            picks = initial  # every sample once, in the order drawn
            owner = np.arange(n)
        similarity = np.einsum("ij,ij->i", x[picks], theta, dtype=np.float64) / len(named)
    ownerless = k - len(np.unique(owner))
    changed = int((~np.isin(picks, initial)).sum())
    return Parametric(
        picks,
        similarity,
        initial,
        changed,
        ownerless,
        tuple(history),
        _warnings(weights, ownerless, k),
        zero_rows,
    )


def _solve(
    x: Floats,
    theta: Floats,
    assignment: Assignment,
    weights: Weights,
    solver: str,
    steps: int,
    rate: float,
    watch: Watch,
    threads: int,
) -> list[Terms]:
    def descend(assignment: Assignment, steps: int, watch: Watch) -> list[Terms]:
        def evaluate(theta: Floats) -> tuple[Terms, Matrix]:
            owner = assignment.update(theta)
            return value_and_gradient(assignment.x, theta, owner, assignment.sums, weights, threads)

        def rates() -> Floats:
            # Along θ_j the loss bends as what it owns pulls, and as the others push.
            k = len(theta)
            share = np.bincount(assignment.owner, minlength=k)[:, None] / len(assignment.owner)
            return (2 * weights.tau / (share + 1 / k)).astype(np.float32)

        if solver == "adam":
            return adam(theta, evaluate, weights.offsets, steps, rate, watch)
        return lbfgs(theta, evaluate, weights.offsets, steps, rates, TOLERANCE, watch)

    part = x[:: max(len(x) // (FIRST_SAMPLES * len(theta)), 1)]
    first = min(FIRST_STEPS, steps // 4) if solver == "lbfgs" and len(part) < len(x) else 0
    if first:  # far from the goal, a part of the samples shows the way as well
        descend(Assignment(part, threads), first, lambda *_: None)
    history = descend(assignment, steps - first, watch)
    assignment.update(theta)  # the last evaluation may have been of a step that was refused
    return history


def _draw(x: Floats, k: int, rng: np.random.Generator, init: str) -> NDArray[np.int64]:
    """Distinct rows to start from."""
    if init == "uniform":
        return rng.choice(len(x), k, replace=False)
    rows = np.empty(k, dtype=np.int64)
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64, casting="same_kind")
    nearest = np.full(len(x), np.inf)
    free = np.ones(len(x), dtype=bool)
    rows[0] = rng.integers(len(x))
    for j in range(1, k):
        last = rows[j - 1]
        free[last] = False
        nearest = np.minimum(nearest, squares + squares[last] - 2.0 * (x @ x[last]))
        # Below float32 rounding a distance is a duplicate's.
        weight = np.where(free & (nearest > 1e-5), nearest, 0.0)
        total = weight.sum()
        weight = weight / total if total > 0 else free / free.sum()
        rows[j] = rng.choice(len(x), p=weight)
    return rows


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


def _check(
    tau: float,
    diversity: float,
    alignment: float,
    loss: str,
    solver: str,
    steps: int,
    rate: float,
    init: str,
) -> None:
    rules = [
        ("tau", tau, 0 < tau < np.inf, "a positive number"),
        ("diversity", diversity, 0 <= diversity < np.inf, "a number from 0"),
        ("diversity", diversity, loss != "code" or diversity > 0, "above 0 with loss=code"),
        ("alignment", alignment, 0 <= alignment < np.inf, "a number from 0"),
        ("loss", loss, loss in ("paper", "code"), "paper or code"),
        ("solver", solver, solver in STEPS, "adam or lbfgs"),
        ("steps", steps, steps >= 0, "a count from 0"),
        ("rate", rate, 0 < rate < np.inf, "a positive number"),
        ("init", init, init in ("uniform", "kmeans++"), "uniform or kmeans++"),
    ]
    for name, value, holds, expected in rules:
        if not holds:
            raise ParameterError(f"{name}: expected {expected}, found {value!r}")
