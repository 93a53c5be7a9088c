"""End every command that writes, at random instants, and look at what it leaves.

    python tests/kill.py --instants 1000 --seed 0 [--commands score-csv,pack]

A process that is ended by kill -9 leaves the old target or the whole new one, and the same command
then does its work. One that is ended by SIGTERM, SIGHUP or SIGINT leaves nothing else behind, and
its exit code is that of the signal. Prints counts, and each instant at which that does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from conftest import arrays

import mmselect
from mmselect.cli import run

SIGNALS = {"KILL": -9, "TERM": 143, "HUP": 129, "INT": 130}
"""Signals, and the exit code that each has to give."""

POOL = "../in/pool.h5"
SELECT = ["select", POOL, "-q", "-b", "9"]

COMMANDS: dict[str, tuple[list[str] | Callable[[], object], str]] = {
    "select": ([*SELECT, "-o", "t.txt"], "t.txt"),
    "select-json": ([*SELECT, "-s", "smem", "-o", "t.json", "--format", "json"], "t.json"),
    "nearest": ([*SELECT, "-s", "bmmal", "--nearest", "t.csv"], "t.csv"),
    "split": ([*SELECT, "--split", "2", "-o", "t{}.csv"], "t2.csv"),
    "score-csv": (["score", POOL, "-q", "-o", "t.csv"], "t.csv"),
    "score-jsonl": (["score", POOL, "-q", "--format", "jsonl", "-o", "t.jsonl"], "t.jsonl"),
    "score-npy": (["score", POOL, "-q", "--format", "npy", "-o", "t.npy"], "t.npy"),
    "score-h5": (["score", POOL, "-q", "--format", "h5", "-o", "t.h5"], "t.h5"),
    "embed": (["embed", POOL, "-q", "-o", "t.h5"], "t.h5"),
    "demo": (["demo", "."], "scores.csv"),
    "replay": (
        [
            *("replay", POOL, "-q", "-s", "random", "-b", "9", "--rounds", "1", "--seeds", "2"),
            *("-o", "t.txt"),  # as text: csv says how long a run took
        ],
        "t.txt",
    ),
    "pack": (["pack", "-q", "--features", "a=../in/a.npy", "-o", "t.h5"], "t.h5"),
    "look": (["look", POOL, "../in/picks.txt", "-q", "-o", "t.html"], "t.html"),
    "write_pool": (lambda: mmselect.write_pool("t.h5", **arrays(400)), "t.h5"),
    "align": (["align", POOL, "-q", "--epochs", "2", "-o", "t.h5"], "t.h5"),  # needs torch
    "export_pool": (lambda: export("t.h5"), "t.h5"),
}


def export(path: str) -> object:
    """Export a model of two towers over a loader of batches, with shards on the way."""
    import torch
    from torch_helper.export_models import EXPORT, TwoTower, loader

    from mmselect.torch import export_pool

    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    return export_pool(TwoTower(), loader(), path, **EXPORT)


def child(work: list[str] | Callable[[], object], folder: Path) -> None:
    """Do the work in a process of its own, and leave with its exit code."""
    code = 99
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        code = run(work) if isinstance(work, list) else int(work() is None) - 1
    except SystemExit as stop:
        code = int(stop.code or 0)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        Path("../trace.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def warm(work: list[str] | Callable[[], object], folder: Path) -> None:
    """Run once in this process, so that those it makes find everything imported."""
    here, out = Path.cwd(), sys.stdout
    os.chdir(folder)
    with Path(os.devnull).open("w") as sys.stdout:
        run(work) if isinstance(work, list) else work()
    sys.stdout = out
    os.chdir(here)
    for name in ("SIGTERM", "SIGHUP"):  # a process that was just made obeys them at once
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def attempt(
    work: list[str] | Callable[[], object], folder: Path, after: float | None, name: str = "KILL"
) -> tuple[int, float]:
    """Run once, and send a signal after so many seconds; return the exit code and the time."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, f"SIG{n}") for n in SIGNALS})
    began, process = time.monotonic(), os.fork()
    if not process:
        child(work, folder)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if after is not None:
        time.sleep(after)
        os.kill(process, getattr(signal, f"SIG{name}"))
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def emptied(folder: Path, old: dict[str, bytes]) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.unlink()
    shutil.rmtree(folder / "t.h5.partial", ignore_errors=True)
    for name, data in old.items():
        (folder / name).write_bytes(data)


def wrong(
    code: int,
    name: str,
    command: str,
    found: dict[str, bytes],
    old: dict[str, bytes],
    new: dict[str, bytes],
) -> str:
    """Say what is wrong with what a process left that was ended by a signal."""
    for file, data in found.items():
        if file in new and data not in (new[file], old.get(file)):
            return f"{file} is neither old nor new"
    if set(old) - set(found):
        return "the old target is gone"
    if name == "KILL" or (name != "INT" and not isinstance(COMMANDS[command][0], list)):
        return ""  # a program that calls a function does not hear SIGTERM or SIGHUP, unless it asks
    extra = {f for f in set(found) - set(old) - set(new) if ".partial/" not in f}  # to go on from
    if extra:
        return f"left {min(extra)}"
    whole = all(found.get(file) == data for file, data in new.items())
    obeyed = code in (SIGNALS[name], -getattr(signal, f"SIG{name}"))
    return "" if obeyed or whole else f"exit {code}"


def trials(
    command: str, instants: int, rng: random.Random, folder: Path, counts: Counter[str]
) -> list[str]:
    """End one command at so many instants; return what was wrong."""
    work, target = COMMANDS[command]
    old = {} if command == "demo" else {target: b"old"}
    emptied(folder, old)
    warm(work, folder)
    emptied(folder, old)
    code, took = attempt(work, folder, None)
    new, faults = contents(folder), []
    if code or new.get(target) in (None, b"old"):
        return [f"{command}: exit {code} without a signal"]
    for _ in range(instants):
        emptied(folder, old)
        name, after = rng.choice(("KILL", *SIGNALS)), rng.random() * took
        code, _ = attempt(work, folder, after, name)
        found = contents(folder)
        counts[f"{name}: {'done before' if code == 0 else 'ended'}"] += 1
        fault = wrong(code, name, command, found, old, new)
        if not fault and name == "KILL" and rng.random() < 0.2:
            counts["run again"] += 1
            again, _ = attempt(work, folder, None)
            done = contents(folder)
            if again or any(done.get(file) != data for file, data in new.items()):
                fault = f"run again: exit {again}"
        if fault:
            said = (folder.parent / "trace.txt").read_text() if code == 99 else ""
            faults.append(f"{command}: {name} after {after:.4f} s: {fault}\n{said}".rstrip())
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Print counts and faults; exit code 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--instants", type=int, default=1000, help="over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    given = parser.parse_args(arguments)
    commands, faults, counts = given.commands.split(","), list[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        folder, inputs = Path(place) / "work", Path(place) / "in"
        folder.mkdir()
        inputs.mkdir()
        mmselect.write_pool(inputs / "pool.h5", **arrays(200))
        np.save(inputs / "a.npy", np.random.default_rng(0).random((5000, 8)))
        (inputs / "picks.txt").write_text("s001\ns002\n")
        for command in commands:
            rng = random.Random(f"{given.seed} {command}")
            faults += trials(command, given.instants // len(commands), rng, folder, counts)
            print(
                f"{command}: so far {dict(sorted(counts.items()))}", *faults, sep="\n", flush=True
            )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
