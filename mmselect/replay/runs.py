"""Play every strategy with every seed, keep what is finished, and sum it up."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from mmselect.errors import InputError, UsageError
from mmselect.files import make_folder, reason, replacing
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.replay.data import TEST_FRACTION, Data, load
from mmselect.replay.rounds import Run, Settings, Start, begin, check_strategies, play
from mmselect.strategies.record import Progress
from mmselect.version import __version__

STRATEGIES = ("bmmal", "badge", "smem", "entropy", "random")
"""What is compared unless the user says otherwise."""


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
    """

    settings: dict[str, Any]
    runs: list[Run]
    warnings: list[str]

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


def replay(
    pool: Pool | PoolPath | Sequence[PoolPath],
    strategies: Sequence[str] = STRATEGIES,
    *,
    rounds: int = 5,
    budget: int | str = "2%",
    start: str = "random",
    start_budget: int | str | None = None,
    seeds: int = 5,
    seed: int = 0,
    test_fraction: float | None = None,
    jobs: int = 1,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Play active learning on a pool whose labels are known.

    Linear heads are fitted on the labeled samples, a strategy picks, the labels of its picks are
    revealed, and so on. Samples whose label is unknown take no part.

    Parameters
    ----------
    pool : Pool, path, or sequence of paths
        With features and labels; nothing else of it is used.
    strategies : sequence of str
        Names, with parameters where wanted: ``"smem:diversify=4"``.
    rounds : int
        How often each strategy picks.
    budget : int or str
        Picks of a round: a count, or a share of the samples that may be picked.
    start : str
        A strategy that needs features only picks the first samples; ``"labeled"`` starts from
        those that the pool says are labeled.
    start_budget : int or str, optional
        Samples at the start; default: `budget`.
    seeds, seed : int
        How many seeds, and the first of them. For one seed all strategies start alike.
    test_fraction : float, optional
        Share of the samples to test on, drawn for each seed. Default: ``/metadata/split`` of the
        pool says which are ``test`` and ``train``; 0.2 where it does not.
    jobs : int
        Processes. Results do not depend on it.
    folder : path, optional
        Where finished runs are kept, and found again.
    progress : callable, optional
        Told ``(runs done, runs in all)``.

    Returns
    -------
    Replay

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
    first = str(budget if start_budget is None else start_budget)
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    settings = Settings(start, first, str(budget), rounds, fraction)
    names, numbers = list(strategies), list(range(seed, seed + seeds))
    _check(settings, names, numbers, jobs)
    with opened_pool(pool) as opened:
        data, files = load(opened, test_fraction is None), opened.files
    check_strategies(data, settings, names)
    runs = _play_all(data, settings, names, numbers, jobs, folder, progress)
    described = {
        "mmselect": __version__,
        "strategies": names,
        "seeds": numbers,
        **_settings(data, settings),
        "pool": {"paths": files, "digest": data.digest, "samples": len(data.labels)},
        "classes": data.classes,
        "modalities": sorted(data.features),
    }
    return Replay(described, runs, _gathered(runs))


def _check(settings: Settings, strategies: list[str], seeds: list[int], jobs: int) -> None:
    """Refuse what is wrong whatever the pool."""
    if not 0 < settings.test_fraction < 1:
        found = f"{settings.test_fraction:g}"
        raise UsageError(f"test fraction: expected a share between 0 and 1, found {found}")
    if settings.rounds < 1 or not seeds or seeds[0] < 0 or jobs < 1:
        found = f"{settings.rounds} rounds, {len(seeds)} seeds, {jobs} jobs"
        raise UsageError(f"expected at least 1 round, 1 seed and 1 job, found {found}")
    if repeated := [name for i, name in enumerate(strategies) if name in strategies[:i]]:
        raise UsageError(f"strategies: expected each once, found {repeated[0]} again")


def _gathered(runs: Sequence[Run]) -> list[str]:
    """Say once what was said in many rounds with other numbers, and by which strategies."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for line in run.warnings:
            kinds.setdefault(re.sub(r"[\d,.]+", "#", line), []).append((run.strategy, line))
    lines = []
    for said in kinds.values():
        names, times = ", ".join(dict.fromkeys(name for name, _ in said)), len(said)
        lines.append(f"{names}: {said[0][1]}{f' ({times} times)' if times > 1 else ''}")
    return lines


def _settings(data: Data, settings: Settings) -> dict[str, Any]:
    """Name the settings that apply: a test fraction only without a split of the pool's own."""
    split = {"test_fraction": None} if data.test is not None else {}
    return {**asdict(settings), **split}


def _play_all(
    data: Data,
    settings: Settings,
    strategies: list[str],
    seeds: list[int],
    jobs: int,
    folder: Path | None,
    progress: Progress | None,
) -> list[Run]:
    """Play what is not yet stored, a few seeds at a time: all strategies share a seed's start."""
    pairs = [(strategy, seed) for seed in seeds for strategy in strategies]
    key = _key(data, settings)
    runs = {pair: run for pair in pairs if (run := _stored(folder, key, *pair))}
    todo = [pair for pair in pairs if pair not in runs]
    fresh = sorted({seed for _, seed in todo})
    total = len(todo) + len(fresh)
    done = _counter(progress, total)
    for first in range(0, len(fresh), jobs):
        some = fresh[first : first + jobs]
        starts: dict[int, Start] = {}
        for i, start in _parallel(begin, [(data, settings, seed) for seed in some], jobs):
            starts[some[i]] = start
            done()
        now = [(strategy, seed) for strategy, seed in todo if seed in starts]
        tasks = [(data, settings, strategy, seed, starts[seed]) for strategy, seed in now]
        for i, run in _parallel(play, tasks, jobs):
            runs[now[i]] = run
            _store(folder, key, run)
            done()
    return [runs[strategy, seed] for strategy in strategies for seed in seeds]


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Make a function that tells, each time it is called, that one more is done."""
    counted = itertools.count(1)
    if progress is None or not total:
        return lambda: None
    progress(0, total)
    return lambda: progress(next(counted), total)


def _parallel(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Call a function with each tuple of arguments; yield results as they come, by position."""
    if jobs == 1:
        for i, task in enumerate(tasks):
            yield i, function(*task)
        return
    calls = (delayed(_numbered)(i, function, task) for i, task in enumerate(tasks))
    yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)


def _numbered(i: int, function: Callable[..., Any], task: tuple[Any, ...]) -> tuple[int, Any]:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for us
    return i, function(*task)


def _key(data: Data, settings: Settings) -> str:
    """Digest of what a stored run must agree with."""
    parts = {"mmselect": __version__, "data": data.digest, **_settings(data, settings)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _place(folder: Path, key: str, strategy: str, seed: int) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.=-]+", "_", strategy)
    return folder / f"{name}-{seed}-{key}.json"


def _store(folder: Path | None, key: str, run: Run) -> None:
    if folder is None:
        return
    make_folder(folder)
    with replacing(_place(folder, key, run.strategy, run.seed)) as file:
        file.write(json.dumps({"key": key, **asdict(run)}).encode())


def _stored(folder: Path | None, key: str, strategy: str, seed: int) -> Run | None:
    """Find a finished run; what is not one is an error, not a reason to play again."""
    if folder is None:
        return None
    place = _place(folder, key, strategy, seed)
    if not place.exists():
        return None
    try:
        found = json.loads(place.read_text())
        same = found.pop("key") == key
        run = Run(**found)
        if not same or (run.strategy, run.seed) != (strategy, seed) or not run.rounds:
            raise ValueError
        return run
    except OSError as error:
        raise InputError(f"cannot be read: {reason(error)}", file=str(place)) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        message = "expected a finished run, found something else; remove it to play it again"
        raise InputError(message, file=str(place)) from None
