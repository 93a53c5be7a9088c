"""Trainings by a command, each in a folder that is named by what was asked of it.

Equal ones are trained once, whoever asks: another strategy, another seed's thread, another process,
or the same replay after a stop.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmselect.errors import MmselectError, TrainingError
from mmselect.files import locked, make_folder, replacing, writing
from mmselect.replay.calls import POLL, Calls
from mmselect.replay.template import fill, places_in

FOLDER = "trainings"
OUT, DONE, LOG = "out.h5", "done.json", "log.txt"
KEY = 24
"""Hexadecimal digits of a key."""

Made = TypeVar("Made")


class Task(NamedTuple):
    """One training.

    Attributes
    ----------
    labeled : bytes
        CSV of what is known.
    pool : path
        CSV of what to export.
    seed, round : int
    previous : path or None
        What the round before wrote; None at the start.
    """

    labeled: bytes
    pool: Path
    seed: int
    round: int
    previous: Path | None


@dataclass(frozen=True)
class Trainings:
    """Trains by a command, and keeps what came out.

    Attributes
    ----------
    folder : path
    command : str
        With places.
    calls : Calls
        Who runs it.
    timeout : float or None
        Seconds.
    told : callable
        Told the seconds of each training that was run.
    repeat : int
        Above 0 for a training that was done before and is done again, to compare.
    """

    folder: Path
    command: str
    calls: Calls
    timeout: float | None = None
    told: Callable[[float], None] = field(default=lambda _: None)
    repeat: int = 0

    def train(self, task: Task, read: Callable[[Path], Made]) -> tuple[Made, list[str]]:
        """Train, unless this was trained before.

        Parameters
        ----------
        task : Task
        read : callable
            Reads what the command wrote; what it raises is a failure of the training.

        Returns
        -------
        object
            What `read` made of it.
        list of str
            What the user should know.

        Raises
        ------
        TrainingError
            One line with the path of the log.
        """
        place = self.folder / self._key(task)
        make_folder(place)
        path = place / "lock"  # held by the command too, as it may go on when this process ends
        with _said(task, place / LOG), writing(path), locked(path, self._wait) as lock:
            if (place / DONE).exists() and (place / OUT).exists():
                return read(place / OUT), self._outdated(place / DONE)
            with replacing(place / "labeled.csv") as file:
                file.write(task.labeled)
            for name in (DONE, OUT):
                (place / name).unlink(missing_ok=True)
            values = self._values(task, place)
            seconds = self.calls.run(
                lambda slot: fill(self.command, {**values, "slot": slot}),
                place / LOG,
                self.timeout,
                lock,
            )
            if not (place / OUT).exists():
                raise TrainingError("expected the command to write {out}, found no file there")
            made = read(place / OUT)
            with replacing(place / DONE) as file:
                file.write(json.dumps({"command": self.command, "seconds": seconds}).encode())
        self.told(seconds)
        return made, []

    def _wait(self) -> None:
        """Wait a moment for another process that trains the same."""
        self.calls.check()
        time.sleep(POLL)

    def _key(self, task: Task) -> str:
        """Digest of all that the command may know."""
        used = places_in(self.command)
        asked: dict[str, Any] = {
            "command": self.command,
            "labeled": hashlib.sha256(task.labeled).hexdigest(),
            "pool": task.pool.name,
            "seed": task.seed,
        }
        if "round" in used:
            asked["round"] = task.round
        if "previous" in used and task.previous is not None:
            asked["previous"] = task.previous.parent.name
        if self.repeat:
            asked["repeat"] = self.repeat
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:KEY]

    def _values(self, task: Task, place: Path) -> dict[str, object]:
        return {
            "labeled": place / "labeled.csv",
            "pool": task.pool,
            "out": place / OUT,
            "seed": task.seed,
            "round": task.round,
            "previous": task.previous or "",
            "dir": place,
        }

    def _outdated(self, done: Path) -> list[str]:
        """Name the command's files that were changed since: the key knows their names alone."""
        with contextlib.suppress(ValueError, OSError):
            since = done.stat().st_mtime
            words = {Path(word) for word in shlex.split(self.command)}
            files = sorted(w for w in words if w.is_file() and w.stat().st_mtime > since)
            kept = f"is newer than trainings that are taken up; remove {self.folder} to repeat them"
            return [f"{file} {kept}" for file in files]
        return []


def kept_seconds(folder: Path, command: str) -> list[float]:
    """Seconds that each training by a command took, of those that are there."""
    found = []
    for file in sorted(folder.glob(f"*/{DONE}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(file.read_bytes())
            if said["command"] == command:
                found.append(float(said["seconds"]))
    return found


@contextlib.contextmanager
def _said(task: Task, log: Path) -> Iterator[None]:
    """Say of whatever goes wrong which training it was, and where its log is."""
    try:
        yield
    except MmselectError as error:
        count = max(task.labeled.count(b"\n") - 1, 0)
        which = f"training of round {task.round}, seed {task.seed}, on {count:,} labels"
        raise TrainingError(f"{which}: {error}; its log: {log}") from error
