"""A worker that tries inputs one after another, and a driver that outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

STALLED = 2400
"""Seconds after which a worker sleeps in HDF5, where no alarm of Python reaches it."""


SHOWN = 10_000
"""Inputs after which the counts are shown."""

TOGETHER = 200
"""Inputs made by one fork, which takes as long as to make some ten."""

LASTING = 2000
"""Inputs after which a worker ends, for HDF5 may crash at the end of a process only."""

NOT_MADE = ("not made", "", False)
"""What becomes of an input over which HDF5 crashes or hangs while it is made: nobody has it."""


@dataclass
class Found:
    """How many inputs were tried, how their commands ended, and an example of each bad end."""

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    bad: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, kind: str, said: str, bad: bool) -> None:
        """Count an outcome."""
        self.inputs += 1
        self.kinds[kind] += 1
        if bad:
            self.bad.setdefault(kind, f"input {number}: {said}")

    def text(self) -> str:
        """Say it in a few lines."""
        lines = [f"{self.inputs:,} inputs", *(f"{n:>9,}  {k}" for k, n in self.kinds.most_common())]
        return "\n".join([*lines, *(f"BAD {kind}\n{said}" for kind, said in self.bad.items())])


def work(seed: int, first: int, folder: Path) -> None:
    """Try inputs from `first` on, until somebody ends it or it has tried enough.

    Prints a line of JSON when each is made, and one when it is done.
    """
    from fuzzing import foreign
    from fuzzing.seeds import contents
    from fuzzing.trials import ready, trial

    place = folder / "seeds" / str(first)
    place.mkdir(parents=True)
    seeds, others, out = contents(place), foreign.contents(place), sys.stdout
    ready()
    for number, command in _made(seed, first, seeds, others, folder):
        print(json.dumps([number]), file=out, flush=True)
        if command is None:
            outcome: tuple[str, str, bool] = NOT_MADE
        else:
            os.chdir(place_of(folder, number))
            found = trial(command)
            outcome = (*found, found.bad)
        print(json.dumps([number, *outcome]), file=out, flush=True)
        if outcome[0] == "memory" or number + 1 >= first + LASTING:
            return  # a peak is of the whole process, so the next one needs another


def place_of(folder: Path, number: int) -> Path:
    """Folder of an input."""
    return folder / "inputs" / str(number % TOGETHER)


def _made(
    seed: int,
    first: int,
    seeds: Sequence[dict[str, bytes]],
    others: Mapping[str, bytes],
    folder: Path,
) -> Iterator[tuple[int, list[str] | None]]:
    """Inputs with their commands, some at a time, made by a fork: HDF5 crashes over a few.

    So whatever befalls the process that tries them is the doing of a command that reads.
    """
    from fuzzing.trials import limit_processor, prepare

    (folder / "inputs").mkdir(exist_ok=True)
    for start in count(first, TOGETHER):
        commands: list[list[str] | None] = []
        while (done := len(commands)) < TOGETHER:
            with warnings.catch_warnings(action="ignore"):  # of threads, which idle
                end, child = os.pipe(), os.fork()
            if not child:
                limit_processor()
                for number in range(start + done, start + TOGETHER):
                    command = prepare(seed, number, seeds, others, place_of(folder, number))
                    os.write(end[1], json.dumps(command).encode() + b"\n")
                os._exit(0)
            os.close(end[1])
            with os.fdopen(end[0], "rb") as lines:
                commands += [json.loads(line) for line in lines]
            if os.waitpid(child, 0)[1]:
                commands.append(None)
        yield from enumerate(commands, start)


def lines_of(worker: subprocess.Popen[bytes]) -> Iterator[list]:
    """Lines of a worker, until it ends or stalls."""
    assert worker.stdout is not None
    while select.select([worker.stdout], [], [], STALLED)[0]:
        line = worker.stdout.readline()
        if not line:
            return
        yield json.loads(line)
    os.killpg(worker.pid, signal.SIGKILL)


def fuzz(seed: int, first: int, last: int, seconds: float, keep: Path | None = None) -> Found:
    """Try inputs `first` to `last`, or as many as there is time for."""
    found, number, end = Found(), first, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.suppress(KeyboardInterrupt):  # what was found until then is told
            while number < last and time.monotonic() < end:
                number = _one_worker(found, seed, number, last, end, folder, keep)
    return found


def _one_worker(
    found: Found, seed: int, number: int, last: int, end: float, folder: Path, keep: Path | None
) -> int:
    """Follow one worker until it is done or gone; return the next number to try."""
    script = Path(__file__).parent.parent / "fuzz.py"
    command = [sys.executable, str(script), "--work", str(seed), str(number), str(folder)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    under_way = None
    try:
        for at, *outcome in lines_of(worker):
            under_way = None if outcome else at
            if not outcome:
                continue
            found.add(at, *outcome)
            if not found.inputs % SHOWN:
                print(found.text(), file=sys.stderr, flush=True)
            if outcome[2] and keep:  # the worker has gone on: its number makes the input again
                kept = keep / f"{outcome[0].split(':')[0]} {seed} {at}.txt"
                kept.write_text(outcome[1])
            number = at + 1
            if number >= last or time.monotonic() > end:
                return number
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # and the fork that makes inputs
        code = worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
    if under_way is None:
        if code:
            told = f"by one of those before: {LASTING:,} at most"
            found.bad.setdefault(f"crash at the end: {code}", f"input {number}: {told}")
        return number
    kind = "hang" if -code in (signal.SIGKILL, signal.SIGXCPU) else f"crash: signal {-code}"
    found.add(under_way, kind, "", True)
    if keep:
        target = keep / f"{kind} {seed} {under_way}"
        shutil.copytree(place_of(folder, under_way), target, dirs_exist_ok=True, symlinks=True)
    return under_way + 1
