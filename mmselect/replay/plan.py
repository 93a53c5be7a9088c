"""What a replay will play, decided before anything is played; and how much training that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mmselect.ask import Replaying
from mmselect.constraint import as_texts, named_columns
from mmselect.errors import UsageError
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.replay.data import TEST_FRACTION, Data, load
from mmselect.replay.heads import C_GRID
from mmselect.replay.rounds import FULL, Run, check_strategies
from mmselect.replay.storage import Storage, digest
from mmselect.replay.trainings import kept_seconds
from mmselect.replay.ways import trainings_in
from mmselect.version import __version__

Batch: TypeAlias = tuple[int | str, str, int]
"""Budget, start and seed of a first batch."""


@dataclass(frozen=True)
class Case:
    """A replay that is to be played.

    Attributes
    ----------
    data : Data
    ask : Replaying
    folder : path or None
        Where runs are kept.
    names : list of str
        Strategies, or with 0 rounds the starts.
    played : dict
        What stored runs must agree with besides the data and, for first batches, the budget.
    files : list of str
        The pool's.
    """

    data: Data
    ask: Replaying
    folder: Path | None
    names: list[str]
    played: dict[str, Any]
    files: list[str]

    @property
    def seeds(self) -> list[int]:
        """All seeds."""
        return list(range(self.ask.seed, self.ask.seed + self.ask.seeds))

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Strategies, or starts, with seeds."""
        return [(name, seed) for name in self.names for seed in self.seeds]

    @property
    def full(self) -> list[tuple[str, int]]:
        """Trainings on all labels, where they are asked for."""
        return [(FULL, seed) for seed in self.seeds if self.ask.full]

    @property
    def storage(self) -> Storage:
        """Where runs are kept."""
        return Storage(self.folder, digest({**self.played, "data": self.data.digest}))

    def kept(self, budget: int | str) -> Storage:
        """Where first batches of a budget are kept."""
        more = {"budget": budget, "data": self.data.digest}
        return Storage(self.folder, digest({**self.played, **more}))

    def batches(self) -> tuple[dict[Batch, Run], list[Batch]]:
        """Find the first batches that are stored, and name those that are not."""
        every = [(budget, *pair) for pair in self.pairs for budget in self.ask.budget]
        found = {b: run for b in every if (run := self.kept(b[0]).load(*b[1:]))}
        return found, [batch for batch in every if batch not in found]

    @property
    def settings(self) -> dict[str, Any]:
        """What is said of it beside its results."""
        data = self.data
        return {
            **self.played,
            "strategies": self.names,
            "seeds": self.seeds,
            "pool": {"paths": self.files, "digest": data.digest, "samples": len(data.labels)},
            "classes": data.classes,
            "class_names": data.names,
            "modalities": sorted(data.features),
            **({} if self.ask.rounds else {"start": self.names, "budget": [*self.ask.budget]}),
        }


def open_case(
    pool: Pool | PoolPath | Sequence[PoolPath], ask: Replaying, folder: Path | None
) -> Case:
    """Read what will be played on.

    Raises
    ------
    MmselectError
        If the pool cannot be played on, or a name is given twice.
    """
    names = list(ask.strategies if ask.rounds else ask.start)
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        which = "strategies" if ask.rounds else "start"
        raise UsageError(f"{which}: expected each once, found {repeated[0]} again")
    with opened_pool(pool) as opened:
        split, by_id = ask.test_fraction is None, ask.train is not None
        data, files = load(opened, split, named_columns(ask), by_id), opened.files
    return Case(data, ask, folder, names, _played(data, ask), files)


def _played(data: Data, ask: Replaying) -> dict[str, Any]:
    """Collect what stored runs must agree with besides the data and, for first batches, budget."""
    played: dict[str, Any] = {
        "mmselect": __version__,
        **({"grid": C_GRID} if ask.train is None else {"train": ask.train}),
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


class Plan(NamedTuple):
    """How much training a replay by a command is.

    Attributes
    ----------
    trainings : int
        At most, for what is not stored: equal sets of a seed are trained once.
    kept : int
        Trainings by this command that are there, of those or of others.
    mean : float or None
        Seconds of one of them; None before the first.
    jobs : int
    """

    trainings: int
    kept: int
    mean: float | None
    jobs: int

    @property
    def seconds(self) -> float | None:
        """Time of all together."""
        return None if self.mean is None else self.mean * self.trainings / self.jobs

    @property
    def said(self) -> str:
        """Say how long all together may take, once one has been trained.

        Examples
        --------
        >>> Plan(105, 1, 62.0, 2).said, Plan(105, 0, None, 2).said
        ('at most 105 take 54.2 min with 2 jobs', 'known after the first training')
        """
        if self.seconds is None:
            return "known after the first training"
        jobs = f"{self.jobs} job{'s'[: self.jobs != 1]}"
        return f"at most {self.trainings:,} take {duration(self.seconds)} with {jobs}"

    def rows(self) -> list[tuple[str, str]]:
        """Say everything, line by line."""
        known = f", {duration(self.mean)} on average" if self.mean is not None else ""
        most = f"at most {self.trainings:,}; equal sets of a seed are trained once"
        return [("trainings", most), ("there", f"{self.kept:,}{known}"), ("time", self.said)]


def duration(seconds: float) -> str:
    """Show a time.

    Examples
    --------
    >>> duration(42.34), duration(90), duration(9000)
    ('42.3 s', '1.5 min', '2.5 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def plan(pool: Pool | PoolPath | Sequence[PoolPath], ask: Replaying, folder: Path | None) -> Plan:
    """Count the trainings of a replay by a command, without one.

    Raises
    ------
    UsageError
        If heads are fitted, no command run.
    """
    if ask.train is None:
        raise UsageError("dry run: expected --train with it, whose trainings it counts")
    trainings_in(folder, ask.train)
    case = open_case(pool, ask, folder)
    check_strategies(case.data, ask, None)
    return plan_of(case)


def plan_of(case: Case) -> Plan:
    """Count the trainings that are to come, at most, and those that are there."""
    ask = case.ask
    command = ask.train or ""
    spent = kept_seconds(trainings_in(case.folder, command), command)
    if ask.rounds:
        todo = [pair for pair in [*case.pairs, *case.full] if case.storage.load(*pair) is None]
        starts = len({seed for _, seed in todo})
        count = starts + sum(1 if name == FULL else ask.rounds for name, _ in todo)
    else:
        count = len(case.batches()[1])
    mean = float(np.mean(spent)) if spent else None
    return Plan(count + ask.train_check, len(spent), mean, ask.jobs)
