"""Play every strategy with every seed, keep what is finished, and sum it up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.ask import Replaying
from mmselect.constraint import as_texts, named_columns
from mmselect.engine import Progress
from mmselect.errors import UsageError
from mmselect.option import accepts
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.replay.data import TEST_FRACTION, Data, load
from mmselect.replay.first import play_first
from mmselect.replay.heads import C_GRID
from mmselect.replay.rounds import FULL, Run, Start, begin, check_strategies, play, play_full
from mmselect.replay.storage import Storage, digest
from mmselect.replay.workers import counter, run_tasks
from mmselect.version import __version__

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
        Heads fitted on all labels, one of each seed, where they were asked for.
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

    Linear heads are fitted on the labeled samples, a strategy picks, the labels of its picks are
    revealed, and so on. Samples whose label is unknown take no part.

    Parameters
    ----------
    pool : Pool, path, or sequence of paths
        With features and labels; nothing else of it is used.
    strategies : sequence of str
        Names, with parameters where wanted: ``"smem:spread=d2"``.
        Unused with ``rounds=0``, where first batches are compared.
    folder : path, optional
        Where finished runs are kept, and found again.
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
) -> Replay:
    """Play what is asked; see :func:`replay`.

    `midway` is told, once, what the first seeds gave, two at least, while others are to come.
    """
    names = list(ask.strategies if ask.rounds else ask.start)
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        which = "strategies" if ask.rounds else "start"
        raise UsageError(f"{which}: expected each once, found {repeated[0]} again")
    with opened_pool(pool) as opened:
        data, files = load(opened, ask.test_fraction is None, named_columns(ask)), opened.files
    check_strategies(data, ask)
    numbers = list(range(ask.seed, ask.seed + ask.seeds))
    pairs = [(strategy, seed) for strategy in names for seed in numbers]
    played = _played(data, ask)
    described = {
        **played,
        "strategies": names,
        "seeds": numbers,
        "pool": {"paths": files, "digest": data.digest, "samples": len(data.labels)},
        "classes": data.classes,
        "class_names": data.names,
        "modalities": sorted(data.features),
    }
    if not ask.rounds:
        runs = play_first(data, ask, pairs, folder, played, progress)
        described |= {"start": names, "budget": [*ask.budget]}
        return Replay(described, runs, _merge_warnings(runs))

    def early(runs: list[Run]) -> None:
        if midway is not None:
            midway(Replay(described, runs, []))

    storage = Storage(folder, digest({**played, "data": data.digest}))
    wanted = [*pairs, *((FULL, seed) for seed in numbers if ask.full)]
    runs = _play_pairs(data, ask, wanted, storage, progress, early)
    runs, full = runs[: len(pairs)], runs[len(pairs) :]
    return Replay(described, runs, _merge_warnings([*runs, *full]), full)


def _played(data: Data, ask: Replaying) -> dict[str, Any]:
    """Collect what stored runs must agree with besides the data and, for first batches, budget."""
    played: dict[str, Any] = {
        "mmselect": __version__,
        "grid": C_GRID,
        "rounds": ask.rounds,
        # applies only where the pool has no split of its own
        "test_fraction": None if data.test is not None else ask.test_fraction or TEST_FRACTION,
    }
    if ask.rounds:
        budget = ask.budget[0]
        more = {"start": ask.start[0], "start_budget": ask.start_budget or budget}
        played |= {**more, "budget": budget}
    if demanded := as_texts(ask):
        played["constraints"] = demanded
    return played


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


def _play_one(data: Data, ask: Replaying, strategy: str, seed: int, start: Start) -> Run:
    if strategy == FULL:
        return play_full(data, seed, start)
    return play(data, ask, strategy, seed, start)


def _play_pairs(
    data: Data,
    ask: Replaying,
    pairs: list[tuple[str, int]],
    storage: Storage,
    progress: Progress | None,
    early: Callable[[list[Run]], None],
) -> list[Run]:
    """Play the pairs of strategy and seed that are not stored, ``jobs`` seeds at a time.

    All strategies share a seed's start, so that it is made once. Before the first seeds after two,
    `early` is told the runs of those.
    """
    runs = {pair: run for pair in pairs if (run := storage.load(*pair))}
    todo = [pair for pair in pairs if pair not in runs]
    seeds = sorted({seed for _, seed in todo})
    step = counter(progress, len(todo) + len(seeds))
    told = False
    for first in range(0, len(seeds), ask.jobs):
        whole = {seed for _, seed in pairs} - {*seeds[first:]}
        if len(whole) > 1 and not told:
            early([runs[pair] for pair in pairs if pair[1] in whole and pair[0] != FULL])
            told = True
        some = seeds[first : first + ask.jobs]
        starts: dict[int, Start] = {}
        for i, start in run_tasks(begin, [(data, ask, seed) for seed in some], ask.jobs):
            starts[some[i]] = start
            step()
        now = [(strategy, seed) for strategy, seed in todo if seed in starts]
        tasks = [(data, ask, strategy, seed, starts[seed]) for strategy, seed in now]
        for i, run in run_tasks(_play_one, tasks, ask.jobs):
            runs[now[i]] = run
            storage.save(run)
            step()
    return [runs[pair] for pair in pairs]
