"""A worker that tries inputs one after another, and a driver that outlives it."""

from __future__ import annotations

import contextlib
import json
import mmap
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
from pathlib import Path
from typing import Any, NoReturn

STALLED = 2400
"""Seconds after which a worker sleeps in HDF5, where no alarm of Python reaches it."""


SHOWN = 10_000
"""Inputs after which the counts are shown."""


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
    """Try inputs from `first` on until somebody ends it.

    Prints a line of JSON when each is made, and one when it is done. A fork of this process tries
    them: HDF5 crashes while it makes some, and to load everything again would take seconds.
    """
    from fuzzing import foreign
    from fuzzing.seeds import contents
    from fuzzing.trials import ready

    for name in ("seeds", "input"):
        (folder / name).mkdir(exist_ok=True)
    place = folder / "seeds" / str(first)
    place.mkdir()
    whole = contents(place), foreign.contents(place)
    ready()
    at = memoryview(mmap.mmap(-1, 16)).cast("q")  # the number under way, and whether it is made
    at[0] = first
    while True:
        with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of threads, which idle
            child = os.fork()
        if not child:
            _try_from(at, seed, whole, folder / "input")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code and at[1]:
            os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
        if code:  # HDF5 crashes or hangs while it writes such a pool, which is nobody's input
            print(json.dumps([at[0], "not made", "", False]), flush=True)
            at[0] += 1


def _try_from(
    at: memoryview, seed: int, whole: tuple[Sequence[Any], Mapping[str, bytes]], folder: Path
) -> NoReturn:
    """Try inputs until one ends this process, or takes so much memory that it should end."""
    from fuzzing.trials import prepare, trial

    out, kind = sys.stdout, ""
    while kind != "memory":  # a peak is of the whole process, so the next one needs another
        at[1] = 0
        command = prepare(seed, at[0], *whole, folder)
        at[1] = 1
        print(json.dumps(at[:1].tolist()), file=out, flush=True)
        found = trial(command)
        kind = found.kind
        print(json.dumps([at[0], *found, found.bad]), file=out, flush=True)
        at[0] += 1
    os._exit(0)


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
            os.killpg(worker.pid, signal.SIGKILL)  # and the fork that tries
        code = worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
    if under_way is None:
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the worker at input {number} ended by itself, with {code}")
        found.add(number, "not made", "", False)  # it stalled
        return number + 1
    kind = "hang" if -code in (signal.SIGKILL, signal.SIGXCPU) else f"crash: signal {-code}"
    found.add(under_way, kind, "", True)
    if keep:
        target = keep / f"{kind} {seed} {under_way}"
        shutil.copytree(folder / "input", target, dirs_exist_ok=True, symlinks=True)
    return under_way + 1
