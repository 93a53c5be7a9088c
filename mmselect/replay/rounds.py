"""Play one strategy with one seed: select, reveal, refit, measure, round after round."""

from __future__ import annotations

import threading
import time
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
from mmselect.pool.schema import modalities_in
from mmselect.replay.by_class import recalls
from mmselect.replay.data import TEST_FRACTION, Data, Oracle, part
from mmselect.replay.measures import measure
from mmselect.replay.picked import truth_ranks
from mmselect.replay.trainer import Labeled, Seen, Trainer, Trainers
from mmselect.request import Request, prepare
from mmselect.selection import pick
from mmselect.strategies import registry

FULL = "all labels"
"""In place of a strategy: a training on all labels. No strategy's name has a blank."""

LABELED = "labeled"
"""The start from what the pool says is labeled, in place of a strategy."""

_PICKING = threading.Lock()
"""Held while a strategy picks: some draw from random numbers that a whole process shares."""


class Start(NamedTuple):
    """Where every strategy begins with one seed.

    Attributes
    ----------
    train, test : integer arrays
        Positions in the data.
    labeled : integer array
        The first labeled samples, as positions in `train`.
    model
        Trained on the first labeled samples.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    labeled: NDArray[np.intp]
    model: Any


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


def begin(data: Data, ask: Replaying, seed: int, trainers: Trainers) -> Start:
    """Part the samples, pick the first ones, and train on them.

    Raises
    ------
    MmselectError
        If the start cannot be made: too few samples, one class only, or a strategy that needs
        more than features; or if strategies cannot play on what was trained.
    """
    train, test = part(data, seed, ask.test_fraction or TEST_FRACTION)
    trainer = trainers(data, train, test, seed)
    with engine.blas_threads(1):
        labeled = _first(data, ask, seed, train)
        model = trainer.fit(Labeled(labeled, data.targets(train[labeled]), 0), None)
        if trainers.foreseen(data) is None and ask.rounds:
            known = np.full(len(train), -1, np.int64)
            known[labeled] = data.labels[train[labeled]]
            check_rounds(snapshot(data, train, known, trainer.seen(model)), ask)
    return Start(train, test, labeled, model)


def _first(data: Data, ask: Replaying, seed: int, train: NDArray[np.intp]) -> NDArray[np.intp]:
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
    request = _prepared(_bare(data, train), ask.start[0])
    with _PICKING:
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


def play(
    data: Data, ask: Replaying, strategy: str, seed: int, start: Start, trainers: Trainers
) -> Run:
    """Play one strategy with one seed.

    A strategy sees a pool in memory: what the trainer lets it see, and the labels revealed so far.
    The other labels are not in it.

    Raises
    ------
    MmselectError
        If the strategy cannot run, or a training fails.
    """
    trainer = trainers(data, start.train, start.test, seed)
    k = parse_budget(ask.budget[0], len(start.train))
    oracle, model = Oracle(data.labels[start.train], data.targets(start.train)), start.model
    truth, present = truth_of(data, start), len(np.unique(data.labels))
    picks, seconds = start.labeled, None
    rounds, picked, warnings = [], [], []
    ranks = np.zeros((2, int(data.rows.max()) + 1), np.int64)
    with engine.blas_threads(1):
        for number in range(ask.rounds + 1):
            if number:
                pool = snapshot(data, start.train, oracle.known, trainer.seen(model))
                picks, seconds, said = _select(pool, ask, strategy, k, _seed(seed, number))
                warnings += said
            oracle.reveal(picks)
            rows, known = oracle.rows, oracle.known
            if number:
                model = trainer.fit(Labeled(rows, oracle.targets, number), model)
            row = {"round": number, "labeled": len(rows), **measure(trainer.tested(model), *truth)}
            coverage = len(np.unique(known[picks])) / present
            rounds.append({**row, "coverage": coverage, "seconds": seconds})
            picked.append(data.rows[start.train[picks]].tolist())
            warnings += trainer.problems(model)
            ranks[:, data.rows[start.train]] += _ranked(data, start, trainer, model, known >= 0)
        by_class = recalls(trainer.tested(model), truth[0], data.classes, *truth[1:])
    warnings = list(dict.fromkeys(warnings))
    return Run(strategy, seed, rounds, picked, warnings, by_class, *ranks.tolist())


def truth_of(data: Data, start: Start) -> tuple[Any, Any, Any]:
    """Give what test samples are measured by: labels, shares or None, who has which modality."""
    shares = None if data.shares is None else data.shares[start.test]
    return data.labels[start.test], shares, data.present(start.test)


def _ranked(
    data: Data, start: Start, trainer: Trainer, model: Any, known: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Ranks (n,) of the samples to pick from by the fused head, and whether it can rank them."""
    others = np.flatnonzero(~known)
    chances = trainer.chances(model, others, data.labels[start.train[others]])
    ranks = truth_ranks(chances, known)
    return np.stack([np.maximum(ranks, 0), ranks >= 0])


def play_full(data: Data, seed: int, start: Start, trainers: Trainers) -> Run:
    """Train on all labels of what may be picked: where every strategy would end.

    As if all were picked in the first round.
    """
    trainer, every = trainers(data, start.train, start.test, seed), np.arange(len(start.train))
    with engine.blas_threads(1):
        model = trainer.fit(Labeled(every, data.targets(start.train), 1), start.model)
        measured = measure(trainer.tested(model), *truth_of(data, start))
    row = {"round": 0, "labeled": len(every), **measured, "coverage": 1.0, "seconds": None}
    return Run(FULL, seed, [row], [], trainer.problems(model))


def _select(
    pool: Pool, ask: Replaying, strategy: str, k: int, seed: int
) -> tuple[NDArray[np.intp], float, list[str]]:
    """Pick: rows of the pool, the seconds it took, and what the user should know."""
    with _PICKING:
        began = time.perf_counter()
        request = _prepared(pool, strategy, ask)
        picks = request.candidates[pick(request, k, seed).positions]
        return picks, time.perf_counter() - began, request.warnings


def snapshot(data: Data, train: NDArray[np.intp], known: NDArray[np.int64], seen: Seen) -> Pool:
    """Make the pool that a strategy sees: what an export would hold at this point.

    What the pool itself says of the samples stands over what the trainer says.
    """
    arrays = {"/label": known.copy(), "/labeled": known >= 0, **seen.arrays}
    there = modalities_in(seen.arrays)
    ours = {
        path: values[train]
        for path, values in data.columns.items()
        if not path.startswith(f"{PRESENT}/") or path.removeprefix(f"{PRESENT}/") in there
    }
    return hold({**arrays, **ours}, seen.file)


def check_strategies(data: Data, ask: Replaying, seen: Seen | None) -> None:
    """Refuse, before any work, strategies that a replay cannot play.

    Parameters
    ----------
    data : Data
    ask : Replaying
    seen : Seen or None
        What strategies will see; None: that shows later, so names and forms alone are checked.

    Raises
    ------
    MmselectError
        Naming the first that cannot run, and what it lacks.
    """
    train = np.arange(len(data.labels))
    if seen is None:
        for strategy in ask.strategies if ask.rounds else ():
            if (name := parse_strategy(strategy).name) != "auto":
                registry.find(name)
    elif ask.rounds:
        known = np.full(len(train), -1, np.int64)
        check_rounds(snapshot(data, train, known, seen), ask)
    for start in ask.start:
        if start != LABELED:
            _prepared(_bare(data, train), start)


def check_rounds(pool: Pool, ask: Replaying) -> None:
    """Refuse strategies that cannot play on such a pool."""
    for strategy in ask.strategies:
        _prepared(pool, strategy, ask)


def _bare(data: Data, train: NDArray[np.intp]) -> Pool:
    """Make the pool that the start sees: features, who has them, and nothing else."""
    arrays: dict[str, NDArray[Any]] = {"/labeled": np.zeros(len(train), bool)}  # for n, at least
    arrays |= {f"/features/{m}": z[train] for m, z in data.features.items()}
    masks = {f"{PRESENT}/{name}": mask for name, mask in data.present(train).items()}
    return hold({**arrays, **masks}, data.file)
