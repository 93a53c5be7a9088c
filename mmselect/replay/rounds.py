"""Play one strategy with one seed: select, reveal, refit, measure, round after round."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect import engine
from mmselect.ask import Constraining, Replaying, Selecting
from mmselect.errors import SelectionError, UsageError
from mmselect.option import parse_budget
from mmselect.pool.memory import hold
from mmselect.pool.presence import PRESENT
from mmselect.pool.reading import Pool
from mmselect.replay.by_class import recalls
from mmselect.replay.data import TEST_FRACTION, Data, Oracle, part
from mmselect.replay.heads import (
    Features,
    Head,
    View,
    by_modality,
    choose_penalties,
    fit_heads,
    logits,
    scales,
    views,
)
from mmselect.replay.measures import measure
from mmselect.replay.picked import truth_ranks
from mmselect.request import Request, prepare
from mmselect.selection import pick

FULL = "all labels"
"""In place of a strategy: heads that are fitted on all labels. No strategy's name has a blank."""

LABELED = "labeled"
"""The start from what the pool says is labeled, in place of a strategy."""


class Start(NamedTuple):
    """Where every strategy begins with one seed.

    Attributes
    ----------
    train, test : integer arrays
        Positions in the data.
    labeled : integer array
        The first labeled samples, as positions in `train`.
    penalties : dict of view to float
        scikit-learn's C of each head.
    heads : dict of view to Head
        Fitted on the first labeled samples.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    labeled: NDArray[np.intp]
    penalties: dict[View, float]
    heads: dict[View, Head]


@dataclass(frozen=True)
class Run:
    """One strategy, played with one seed.

    Attributes
    ----------
    strategy, seed
        Which.
    rounds : list of dict
        The measures of `mmselect.replay.measures.measure` after each round, the start being round
        0, with ``round``, ``labeled`` (samples), ``coverage`` (share of the classes among the
        round's picks) and ``seconds`` (to select them; None for the start).
    picks : list of list of int
        Row numbers in the pool of each round's picks, in pick order.
    warnings : list of str
    recalls : dict of str to list, optional
        Accuracy by class in the last round: `mmselect.replay.by_class.recalls`.
    ranks, heads : list of int, optional
        By row of the pool: sum of `mmselect.replay.picked.truth_ranks` over the heads that were not
        fitted on the row, and the number of those. Runs stored by earlier versions lack them.
    """

    strategy: str
    seed: int
    rounds: list[dict[str, float | None]]
    picks: list[list[int]]
    warnings: list[str]
    recalls: dict[str, list[float | None]] | None = None
    ranks: list[int] | None = None
    heads: list[int] | None = None


class Spec(NamedTuple):
    """What ``NAME:PARAMETER=VALUE:…`` says: strategy, parameters, how a score is spread."""

    name: str
    parameters: dict[str, str]
    spread: str | None


def parse_strategy(text: str) -> Spec:
    """Read ``NAME`` or ``NAME:PARAMETER=VALUE:…``; ``spread`` is no parameter of the strategy.

    Raises
    ------
    UsageError
        If a part is not a name and a value, or a name is given twice.

    Examples
    --------
    >>> parse_strategy("smem:spread=d2:beta=0.5")
    Spec(name='smem', parameters={'beta': '0.5'}, spread='d2')
    >>> parse_strategy("column:loss").name
    'column:loss'
    """
    name, *parts = text.split(":")
    if name == "column" and parts:
        name = f"column:{parts.pop(0)}"
    if bad := [part for part in parts if not all(part.partition("="))]:
        raise UsageError(f"strategies: expected NAME:PARAMETER=VALUE, found {bad[0]!r} in {text!r}")
    parameters = dict(part.split("=", 1) for part in parts)
    if len(parameters) < len(parts):
        raise UsageError(f"strategies: expected each parameter once, found {text!r}")
    spread = parameters.pop("spread", None)
    return Spec(name, parameters, spread)


def begin(data: Data, ask: Replaying, seed: int) -> Start:
    """Part the samples, pick the first ones, choose the penalties and fit the first heads.

    Raises
    ------
    MmselectError
        If the start cannot be made: too few samples, one class only, or a strategy that needs
        more than features.
    """
    train, test = part(data, seed, ask.test_fraction or TEST_FRACTION)
    features = {name: z[train] for name, z in data.features.items()}
    with engine.blas_threads(1):
        labeled = _first(data, ask, seed, train, features)
        truth, has = data.targets(train[labeled]), data.present(train)
        scale, c = scales(features, has), data.classes
        penalties = choose_penalties(features, labeled, truth, c, scale, seed, has)
        heads = fit_heads(features, labeled, truth, c, penalties, scale, present=has)
    return Start(train, test, labeled, penalties, heads)


def _first(
    data: Data, ask: Replaying, seed: int, train: NDArray[np.intp], features: Features
) -> NDArray[np.intp]:
    """Positions in `train` of the samples that are labeled first."""
    if ask.start[0] == LABELED:
        found = np.flatnonzero(data.labeled[train])
        if not len(found):
            message = "start labeled: expected labeled samples among those to pick, found none"
            raise SelectionError(message, file=data.file)
        _check_budget(ask, len(found), len(train), data.file)
        return found
    k = parse_budget(ask.start_budget or ask.budget[0], len(train))
    _check_budget(ask, k, len(train), data.file)
    request = _prepared(_bare(data, features, train), ask.start[0])
    return pick(request, k, _seed(seed, 0)).positions


def _check_budget(ask: Replaying, first: int, train: int, file: str) -> None:
    k = parse_budget(ask.budget[0], train) if ask.rounds else 0
    if first + ask.rounds * k > train:
        then = f" at the start and {ask.rounds} rounds of {k:,}" if ask.rounds else ""
        wanted = f"{first:,}{then}"
        message = f"budget: expected at most the {train:,} samples to pick from, found {wanted}"
        raise SelectionError(message, file=file)


def _prepared(pool: Pool, strategy: str, ask: Replaying | None = None) -> Request:
    """Decide what a strategy will do; what `ask` demands of a round does not bind a start."""
    name, parameters, spread = parse_strategy(strategy)
    demanded = {f.name: getattr(ask, f.name) for f in fields(Constraining) if ask}
    how = {"parameters": parameters, "spread": spread, "threads": 1, **demanded}
    return prepare(pool, Selecting(strategy=name, **how))


def _seed(seed: int, round_: int) -> int:
    """Seed of one round: rounds and seeds do not share random numbers."""
    return int(np.random.SeedSequence([seed, round_]).generate_state(1)[0])


def play(data: Data, ask: Replaying, strategy: str, seed: int, start: Start) -> Run:
    """Play one strategy with one seed.

    A strategy sees a pool in memory: features, the current heads with their logits, and the labels
    revealed so far. The other labels are not in it.

    Raises
    ------
    MmselectError
        If the strategy cannot run.
    """
    features = {name: z[start.train] for name, z in data.features.items()}
    held_out = {name: z[start.test] for name, z in data.features.items()}
    has, held_out_has = data.present(start.train), data.present(start.test)
    scale, k = scales(features, has), parse_budget(ask.budget[0], len(start.train))
    oracle, heads = Oracle(data.labels[start.train], data.targets(start.train)), start.heads
    truth = data.labels[start.test], None if data.shares is None else data.shares[start.test]
    picks, seconds = start.labeled, None
    rounds, picked, warnings = [], [], []
    present = len(np.unique(data.labels))
    ranks = np.zeros((2, int(data.rows.max()) + 1), np.int64)
    with engine.blas_threads(1):
        for number in range(ask.rounds + 1):
            if number:
                pool = snapshot(data, start.train, features, oracle.known, heads)
                picks, seconds, said = _select(pool, ask, strategy, k, _seed(seed, number))
                warnings += said
            oracle.reveal(picks)
            rows, known = oracle.rows, oracle.known
            if number:
                given = (features, rows, oracle.targets, data.classes, start.penalties, scale)
                heads = fit_heads(*given, heads, has)
            measured = measure(heads, held_out, *truth, held_out_has)
            row = {"round": number, "labeled": len(rows), **measured}
            coverage = len(np.unique(known[picks])) / present
            rounds.append({**row, "coverage": coverage, "seconds": seconds})
            picked.append(data.rows[start.train[picks]].tolist())
            warnings += _unfinished(heads)
            ranks[:, data.rows[start.train]] += _ranked(data, start, features, heads, known >= 0)
        by_class = recalls(heads, held_out, truth[0], data.classes, truth[1], held_out_has)
    warnings = list(dict.fromkeys(warnings))
    return Run(strategy, seed, rounds, picked, warnings, by_class, *ranks.tolist())


def _ranked(
    data: Data,
    start: Start,
    features: Features,
    heads: Mapping[View, Head],
    known: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Ranks (n,) of the samples to pick from by the fused head, and whether it can rank them."""
    view, head = next(iter(heads.items()))
    ranks = truth_ranks(features, view, head, data.labels[start.train], known)
    return np.stack([np.maximum(ranks, 0), ranks >= 0])


def play_full(data: Data, seed: int, start: Start) -> Run:
    """Fit the heads on all labels of what may be picked: where every strategy would end.

    Penalties are those of the seed's start, as in every round.
    """
    features = {name: z[start.train] for name, z in data.features.items()}
    held_out = {name: z[start.test] for name, z in data.features.items()}
    has, every = data.present(start.train), np.arange(len(start.train))
    truth = data.labels[start.test], None if data.shares is None else data.shares[start.test]
    given = (data.targets(start.train), data.classes, start.penalties, scales(features, has))
    with engine.blas_threads(1):
        heads = fit_heads(features, every, *given, start.heads, has)
        measured = measure(heads, held_out, *truth, data.present(start.test))
    row = {"round": 0, "labeled": len(every), **measured, "coverage": 1.0, "seconds": None}
    return Run(FULL, seed, [row], [], _unfinished(heads))


def _select(
    pool: Pool, ask: Replaying, strategy: str, k: int, seed: int
) -> tuple[NDArray[np.intp], float, list[str]]:
    """Pick: rows of the pool, the seconds it took, and what the user should know."""
    began = time.perf_counter()
    request = _prepared(pool, strategy, ask)
    picks = request.candidates[pick(request, k, seed).positions]
    return picks, time.perf_counter() - began, request.warnings


def _unfinished(heads: Mapping[View, Head]) -> list[str]:
    names = ["+".join(view) for view, head in heads.items() if not head.converged]
    return [f"head on {name}: the fit did not converge" for name in names]


def snapshot(
    data: Data,
    train: NDArray[np.intp],
    features: Features,
    known: NDArray[np.int64],
    heads: Mapping[View, Head],
) -> Pool:
    """Make the pool that a strategy sees: what an export would hold at this point."""
    everyone = next(iter(heads))
    arrays: dict[str, NDArray[Any]] = {
        "/label": known.copy(),
        "/labeled": known >= 0,
        "/multimodal_logits": logits(features, everyone, heads[everyone]),
        "/classifier/bias": heads[everyone].bias,
    }
    for name, weight in by_modality(features, everyone, heads[everyone]).items():
        arrays[f"/features/{name}"] = features[name]
        arrays[f"/unimodal_logits/{name}"] = logits(features, (name,), heads[(name,)])
        arrays[f"/classifier/weight/{name}"] = weight
    return hold({**arrays, **{path: v[train] for path, v in data.columns.items()}}, data.file)


def check_strategies(data: Data, ask: Replaying) -> None:
    """Refuse, before any work, strategies that a replay cannot play.

    Raises
    ------
    MmselectError
        Naming the first that cannot run, and what it lacks.
    """
    train = np.arange(len(data.labels))
    width = {name: z.shape[1] for name, z in data.features.items()}
    blank = {
        view: Head(np.zeros((data.classes, sum(width[m] for m in view))), np.zeros(data.classes))
        for view in views(list(width))
    }
    known = np.full(len(train), -1, np.int64)
    pool = snapshot(data, train, data.features, known, blank)
    for strategy in ask.strategies if ask.rounds else ():
        _prepared(pool, strategy, ask)
    for start in ask.start:
        if start != LABELED:
            _prepared(_bare(data, data.features, train), start)


def _bare(data: Data, features: Features, train: NDArray[np.intp]) -> Pool:
    """Make the pool that the start sees: features, who has them, and nothing else."""
    arrays: dict[str, NDArray[Any]] = {f"/features/{name}": z for name, z in features.items()}
    masks = {f"{PRESENT}/{name}": mask for name, mask in data.present(train).items()}
    return hold({**arrays, **masks}, data.file)
