"""Play every strategy with every seed, keep what is finished, and sum it up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.ask import Replaying
from mmselect.engine import Progress
from mmselect.keywords import accepts
from mmselect.pool.reading import Pool, PoolPath
from mmselect.replay.data import Data
from mmselect.replay.first import play_first
from mmselect.replay.plan import Case, duration, open_case, plan_of
from mmselect.replay.repeats import train_twice
from mmselect.replay.rounds import FULL, Run, Start, begin, check_strategies, play, play_full
from mmselect.replay.trainer import Trainers
from mmselect.replay.ways import Way, way_of
from mmselect.replay.workers import counter

Midway: TypeAlias = "Callable[[Replay], None]"


@dataclass(frozen=True)
class Replay:
    """Every strategy, played with every seed.

    Attributes
    ----------
    settings : dict
        What was played: strategies, seeds, budgets, start, samples, pool, version.
    runs : list of Run
        By strategy, then by seed.
    warnings : list of str
    full : list of Run
        Trainings on all labels, one of each seed, where they were asked for.
    """

    settings: dict[str, Any]
    runs: list[Run]
    warnings: list[str]
    full: Sequence[Run] = ()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The measures of every round as one table: strategy, seed, round, ….

        Everything but ``seconds`` is the same whenever the same replay is played.
        """
        return [
            {"strategy": run.strategy, "seed": run.seed, **row}
            for run in self.runs
            for row in run.rounds
        ]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The same table by column, with nan where there is no number."""
        rows = self.rows
        return {
            name: [math.nan if row[name] is None else row[name] for row in rows] for name in rows[0]
        }

    def curves(self, measure: str) -> dict[str, NDArray[np.float64]]:
        """One measure by strategy: (seeds, rounds + 1) arrays."""
        found: dict[str, list[list[float | None]]] = {}
        for run in self.runs:
            found.setdefault(run.strategy, []).append([row[measure] for row in run.rounds])
        return {strategy: np.array(rows, float) for strategy, rows in found.items()}

    @property
    def baseline(self) -> str:
        """The strategy that the others are held against: random, or the first."""
        names = self.settings["strategies"]
        return "random" if "random" in names else names[0]


@accepts(Replaying)
def replay(
    pool: Pool | PoolPath | Sequence[PoolPath],
    strategies: Sequence[str] = Replaying.strategies,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Replay:
    """Play active learning on a pool whose labels are known.

    Linear heads are fitted on the labeled samples, or a command of yours trains on them (`train`);
    a strategy picks, the labels of its picks are revealed, and so on. Samples whose label is
    unknown take no part.

    Parameters
    ----------
    pool : Pool, path, or sequence of paths
        With features and labels; nothing else of it is used. `train` does without features.
    strategies : sequence of str
        Names, with parameters where wanted: ``"smem:spread=d2"``.
        Unused with ``rounds=0``, where first batches are compared.
    folder : path, optional
        Where finished runs are kept, and found again; `train` needs one.
    progress : callable, optional
        Told ``(runs done, runs in all)``.
    {options}

    Returns
    -------
    Replay
        With ``rounds=0`` its strategies are the starts, and its rounds the budgets, each of which
        stands for itself. For one seed all strategies start alike. Results do not depend on the
        number of jobs.

    Raises
    ------
    MmselectError
        Before any work, where a strategy cannot run or the budget does not suffice.
    TrainingError
        Where the command of `train` fails; what is finished stays in `folder`.

    Examples
    --------
    >>> from mmselect.demo import EMOJI
    >>> found = replay(EMOJI, ["random"], rounds=1, budget=50, seeds=2)
    >>> len(found.rows), found.curves("accuracy")["random"].shape
    (4, (2, 2))
    """
    return play_all(pool, Replaying(strategies=strategies, **asked), folder, progress)


def play_all(
    pool: Pool | PoolPath | Sequence[PoolPath],
    ask: Replaying,
    folder: Path | None = None,
    progress: Progress | None = None,
    midway: Midway | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Replay:
    """Play what is asked; see :func:`replay`.

    `midway` is told, once, what the first seeds gave, two at least, while others are to come;
    `say` what a command's first training says of the rest, and whether the trainer repeats itself.
    """
    case = open_case(pool, ask, folder)
    settings = case.settings
    with way_of(ask, folder, _teller(case, say)) as way:
        check_strategies(case.data, ask, way.trainers.foreseen(case.data))
        if ask.train_check and way.again is not None:
            repeats = train_twice(case.data, ask, way.trainers, way.again)
            settings["repeats"] = {**repeats._asdict(), "floor": repeats.floor}
            say(repeats.said())

        def early(runs: list[Run]) -> None:
            if midway is not None:
                midway(_as_replay(settings, runs))

        play_what = _play_pairs if ask.rounds else play_first
        runs = play_what(case, progress, way, early)
    return _as_replay(settings, runs[: len(case.pairs)], runs[len(case.pairs) :])


def _teller(case: Case, say: Callable[[str], None]) -> Callable[[float], None]:
    """Make what says, after the first training that was run, how long all may take."""
    first = iter([True])

    def told(seconds: float) -> None:
        if next(first, False):
            rest = plan_of(case)._replace(mean=seconds)
            say(f"the first training took {duration(seconds)}; {rest.said}")

    return told


def _as_replay(settings: dict[str, Any], runs: list[Run], full: Sequence[Run] = ()) -> Replay:
    """Put runs together, with the same measures in all: what a training did not say is None.

    Modalities are those that have a head of their own.
    """
    names = dict.fromkeys(name for run in [*runs, *full] for row in run.rounds for name in row)
    heads = [n.removeprefix(HEAD) for n in names if n.startswith(HEAD)]
    blank = dict.fromkeys([*names, *(f"contribution.{m}" for m in heads)])
    runs, full = (
        [replace(run, rounds=[{**blank, **row} for row in run.rounds]) for run in some]
        for some in (runs, full)
    )
    said = {**settings, "modalities": sorted(heads)}
    return Replay(said, runs, _merge_warnings([*runs, *full]), full)


HEAD = "accuracy.balanced."
"""What the name of a measure begins with that every head of one modality has."""


def _merge_warnings(runs: Sequence[Run]) -> list[str]:
    """Say a warning once that many rounds gave with other numbers, and name its strategies."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        if run.picks and run.ranks is None:
            said = "stored by an earlier version, without classes and confidence; remove its runs"
            kinds.setdefault(said, []).append((run.strategy, f"{said} to have those"))
    for run in runs:
        for line in run.warnings:
            kinds.setdefault(re.sub(r"[\d,.]+", "#", line), []).append((run.strategy, line))
    lines = []
    for alike in kinds.values():
        names, times = ", ".join(dict.fromkeys(name for name, _ in alike)), len(alike)
        lines.append(f"{names}: {alike[0][1]}{f' ({times} times)' if times > 1 else ''}")
    return lines


def _play_one(
    data: Data, ask: Replaying, strategy: str, seed: int, start: Start, trainers: Trainers
) -> Run:
    if strategy == FULL:
        return play_full(data, seed, start, trainers)
    return play(data, ask, strategy, seed, start, trainers)


def _play_pairs(
    case: Case, progress: Progress | None, way: Way, early: Callable[[list[Run]], None]
) -> list[Run]:
    """Play the pairs of strategy and seed that are not stored, ``jobs`` seeds at a time.

    All strategies share a seed's start, so that it is made once. Before the first seeds after two,
    `early` is told the runs of those.
    """
    data, ask, pairs, storage = case.data, case.ask, [*case.pairs, *case.full], case.storage
    runs = {pair: run for pair in pairs if (run := storage.load(*pair))}
    todo = [pair for pair in pairs if pair not in runs]
    seeds = sorted({seed for _, seed in todo})
    step = counter(progress, len(todo) + len(seeds))
    start_of, run_of = (partial(f, data, ask, trainers=way.trainers) for f in (begin, _play_one))
    told = False
    for first in range(0, len(seeds), ask.jobs):
        whole = {seed for _, seed in pairs} - {*seeds[first:]}
        if len(whole) > 1 and not told:
            early([runs[pair] for pair in pairs if pair[1] in whole and pair[0] != FULL])
            told = True
        some = seeds[first : first + ask.jobs]
        starts: dict[int, Start] = {}
        for i, start in way.run(start_of, [(seed,) for seed in some], ask.jobs):
            starts[some[i]] = start
            step()
        now = [(strategy, seed) for strategy, seed in todo if seed in starts]
        for i, run in way.run(run_of, [(*pair, starts[pair[1]]) for pair in now], ask.jobs):
            runs[now[i]] = run
            storage.save(run)
            step()
    return [runs[pair] for pair in pairs]
