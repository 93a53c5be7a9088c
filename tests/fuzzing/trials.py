"""One input: made from its number, handed to a command, and judged by how that ends."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import typer

import mmselect.cli  # noqa: F401  (the module in it is looked up by name, below)
from fuzzing import foreign
from fuzzing.seeds import POOL, N
from fuzzing.spoiling import spoil
from fuzzing.structure import CHANGES
from mmselect.engine import blas_threads

program = sys.modules["mmselect.cli.app"]  # by this name the package offers the object in it

SECONDS = 15
"""More of the processor than any command may take for a pool of a few kilobytes."""

ASLEEP = 1200
"""Seconds after which a command sleeps for ever, be the machine ever so busy."""

MEGABYTES = 400
"""More than any command may take for it, beyond what its libraries do."""

COMMANDS: tuple[tuple[str, ...], ...] = (
    *[("check",)] * 10,
    *(("info",), ("strategies",), ("select", "-s", "entropy"), ("select", "-s", "random")),
    *(("select",), ("select", "-s", "bmmal"), ("select", "-s", "kmeans", "--dry-run")),
    *(("select", "-s", "column:loss", "--where", "caption=caption 3", "--clip-budget"),),
    *(("select", "-s", "facility", "--format", "label-studio"), ("select", "--format", "json")),
    *(("score", "-s", "smem"), ("score", "--format", "jsonl"), ("score", "--format", "npy")),
    *(
        ("score", "-s", "bald", "--format", "h5"),
        ("embed", "-o", "made.h5"),
        ("info", "--format", "json"),
    ),
)

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")

BAD = ("traceback", "hang", "memory", "crash", "two error lines", "no error line", "control")
"""Outcomes that must not be; ``wrong: …`` besides."""


KEPT = contextlib.ExitStack()


class Outcome(NamedTuple):
    """How a command ended: a class for the counts, and what it said."""

    kind: str
    said: str

    @property
    def bad(self) -> bool:
        """Whether a pool of any kind must not end so."""
        return self.kind.startswith((*BAD, "wrong"))


class TooLongError(BaseException):
    """Raised by the alarm; nothing in the package may swallow it."""


def make(rng: random.Random, seeds: Sequence[dict[str, bytes]], folder: Path) -> None:
    """Make an input: a whole pool whose structure, or bytes, or both are changed."""
    for name, data in rng.choice(seeds).items():
        (folder / name).write_bytes(data)
    pool, level = folder / POOL, rng.random()
    if level < 0.6:
        _restructure(rng, pool)
    if level > 0.4:
        target = rng.choice([pool, pool, pool, *sorted(folder.iterdir())])
        target.write_bytes(spoil(rng, target.read_bytes()))


def _restructure(rng: random.Random, pool: Path) -> None:
    with h5py.File(pool, "r+", locking=False) as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rng.choice((1, 1, 2, 3))):
            try:
                rng.choice(CHANGES)(rng, handle)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError):
                continue  # HDF5 or NumPy do not write that either
            except (OverflowError, AttributeError, NotImplementedError, UnicodeError):
                continue


def run(arguments: list[str]) -> Outcome:
    """Run a command in this process, and say how it ended."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    kept, raised = (sys.stdout, sys.stderr, program.fail), [""]

    def fail(message: str, code: int) -> int:
        raised[0] = getattr(sys.exc_info()[0], "__name__", "")
        return int(kept[2](message, code))

    _set_alarms(SECONDS, ASLEEP)
    sys.stdout, sys.stderr, program.fail = out, err, fail
    try:
        code = program.run(arguments)
    except TooLongError:
        return Outcome("hang", traceback.format_exc())
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        return Outcome(f"traceback: {what}", traceback.format_exc())
    finally:
        _set_alarms(0, 0)
        sys.stdout, sys.stderr, program.fail = kept
    texts = (each.buffer.getvalue().decode("utf-8", "replace") for each in (out, err))
    return judge(arguments, code, *texts, raised[0])


def judge(arguments: list[str], code: int, out: str, err: str, raised: str) -> Outcome:
    """Hold what a command said against what is promised."""
    lines, binary = err.splitlines(), {"npy", "h5"} & {*arguments}
    errors = sum(line.startswith("error: ") for line in lines)
    said = f"exit {code}\n{out[:2000]}\n{err[:2000]}"
    if CONTROL.search(err) or (not binary and CONTROL.search(out)):
        return Outcome("control character", said)
    if code and arguments[0] != "check" and errors != 1:
        return Outcome("two error lines" if errors else "no error line", said)
    if not code and (errors or any(not re.match("note: |ok: ", line) for line in lines)):
        return Outcome("wrong: exit 0 with errors", said)
    if code not in (0, 1):
        return Outcome(f"wrong: exit {code}", said)
    if arguments[0] == "select" and not code and (wrong := wrong_picks(arguments, out)):
        return Outcome(f"wrong: {wrong}", said)
    if arguments[0] == "check":
        return Outcome("problems found" if code else "nothing wrong", said)
    return Outcome(raised or "exit 0", said)


def wrong_picks(arguments: list[str], out: str) -> str:
    """Say what is wrong with picks that are printed as ids."""
    if {"--format", "--dry-run"} & {*arguments}:
        return ""
    ids = out.splitlines()
    if len({*ids}) != len(ids):
        return "picked twice"
    return "" if len(ids) == 2 or "--clip-budget" in arguments else f"{len(ids)} picks"


def _set_alarms(seconds: float, asleep: float) -> None:
    """Raise soon, and have the system end this process where HDF5 lets nothing be raised."""
    for which, number, after in (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, asleep),
    ):
        signal.signal(number, _alarm)
        signal.setitimer(which, after)
    limit_processor()


def limit_processor() -> None:
    """Have the system end this process where HDF5 goes on for ever."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + 2 * SECONDS + 1), most))


def _alarm(_number: int, _frame: Any) -> None:
    raise TooLongError


FOREIGN = 0.1
"""Share of inputs that are files of other programs, for ``pack``."""


def prepare(
    seed: int,
    number: int,
    seeds: Sequence[dict[str, bytes]],
    others: Mapping[str, bytes],
    folder: Path,
) -> list[str]:
    """Make input `number` in `folder`, and go there; return the command that it is for."""
    rng = random.Random(f"{seed} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)  # before it is made: HDF5 puts external storage where the process is
    if rng.random() < FOREIGN:
        return foreign.make(rng, others, folder)
    command = list(rng.choice(COMMANDS))
    if command[0] in ("select", "score", "embed"):
        command += ["--threads", "1"]
    command += ["--budget", "2"] if command[0] == "select" else []
    make(rng, seeds, folder)
    return [*command[:1], POOL, *command[1:]]


def trial(command: list[str]) -> Outcome:
    """Run a command on the input in this folder."""
    before = peak()
    found = run(command)
    if found.bad:
        return found._replace(said=f"{' '.join(command)}: {found.said}")
    if (more := peak() - before) > MEGABYTES:
        return Outcome("memory", f"{' '.join(command)}: {more} MB more")
    return found


def peak() -> int:
    """Megabytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def ready() -> None:
    """Prepare this process: a warning counts as an error, and threads would only cost time."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {random.choice([*os.sched_getaffinity(0)])})  # two share no core
    KEPT.enter_context(blas_threads())  # looking for its libraries takes a millisecond each time
    warnings.simplefilter("error")
    program.app = typer.main.get_command(program.app)  # made once, not for every input


assert N > 2  # there are candidates to pick two from
