"""The two ways in which a replay trains, and how each uses several jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmselect.ask import Replaying
from mmselect.errors import UsageError
from mmselect.replay.calls import Calls
from mmselect.replay.command import CommandTrainers
from mmselect.replay.linear import LinearTrainer
from mmselect.replay.template import check_command
from mmselect.replay.trainer import Trainers
from mmselect.replay.trainings import FOLDER, Trainings
from mmselect.replay.workers import run_in_threads, run_tasks


class Way(NamedTuple):
    """What trains.

    Attributes
    ----------
    trainers : Trainers
    run : callable
        Does tasks with a number of jobs, as `mmselect.replay.workers.run_tasks`: linear heads by
        the engine that was asked for, commands in threads, which wait for processes not ours.
    again : Trainers or None
        What trains once more where it has trained already, where that may come out otherwise.
    """

    trainers: Trainers
    run: Callable[..., Iterator[tuple[int, Any]]]
    again: Trainers | None = None


@contextlib.contextmanager
def way_of(ask: Replaying, folder: Path | None, told: Callable[[float], None]) -> Iterator[Way]:
    """Decide what trains; what it runs ends with the block.

    Parameters
    ----------
    ask : Replaying
    folder : path or None
        Where runs are kept, and trainings.
    told : callable
        Told the seconds of each command that was run.

    Raises
    ------
    UsageError
        If the command cannot be used, or there is no folder for what it writes.
    """
    if ask.train is None:
        yield Way(LinearTrainer, partial(run_tasks, engine=ask.engine))
        return
    place = trainings_in(folder, ask.train)
    with Calls(ask.jobs) as calls:
        once, again = (
            Trainings(place, ask.train, calls, ask.timeout, told, repeat) for repeat in (0, 1)
        )
        yield Way(CommandTrainers(once), run_in_threads, CommandTrainers(again))


def trainings_in(folder: Path | None, command: str) -> Path:
    """Where trainings by a command are kept; the command is checked.

    Raises
    ------
    UsageError
        If the command cannot be used, or there is no folder.
    """
    check_command(command)
    if folder is None:
        raise UsageError("train: expected --runs or --report, where trainings are kept, with it")
    return folder.resolve() / FOLDER
