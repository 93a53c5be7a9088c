"""Run commands, as many at a time as there are slots, and let none outlive the replay."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmselect.errors import TrainingError, printable
from mmselect.files import writing

GRACE = 5.0
"""Seconds that a command has to end after it was told to."""

POLL = 0.05
LAST_LINE = 200
"""Characters of the last line of a log that an error repeats."""


class Calls:
    """Runs commands through the shell, each in a process group of its own.

    When the ``with`` block ends, however it does, those still running are ended with all that they
    started.
    """

    def __init__(self, jobs: int) -> None:
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._lock:
            self.stopped = True
            left = [*self._running]
        for process in left:
            _end(process)

    def check(self) -> None:
        """Stop a thread whose replay has ended.

        Raises
        ------
        TrainingError
            Which nobody hears.
        """
        if self.stopped:
            raise TrainingError("the replay was stopped")

    def run(
        self, line: Callable[[int], str], log: Path, timeout: float | None, keep: int | None = None
    ) -> float:
        """Run one command to its end.

        Parameters
        ----------
        line : callable
            Makes the line for the shell, from the number of the slot.
        log : path
            Where what it prints goes.
        timeout : float or None
            Seconds after which it is ended.
        keep : int, optional
            A descriptor that the command holds open, too.

        Returns
        -------
        float
            Seconds that it took.

        Raises
        ------
        TrainingError
            If it cannot be started, takes too long, or ends with another code than 0.
        """
        slot = self._slots.get()
        began = time.monotonic()
        try:
            with writing(log), log.open("wb") as told, self._started(line(slot), told, keep) as run:
                code = run.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TrainingError(f"expected to end within {timeout:g} s, was ended then") from None
        finally:
            self._slots.put(slot)
        self.check()
        if code:
            ended = f"exit code {code}" if code > 0 else f"signal {-code}"
            last = last_line(log)
            raise TrainingError(
                f"expected exit code 0, found {ended}{f' ({last})' if last else ''}"
            )
        return time.monotonic() - began

    @contextlib.contextmanager
    def _started(self, line: str, log: Any, keep: int | None) -> Iterator[subprocess.Popen[bytes]]:
        own = {"start_new_session": True, "pass_fds": [] if keep is None else [keep]}
        how: dict[str, Any] = own if hasattr(os, "killpg") else {}  # else: Windows
        how |= {"shell": True, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        with self._lock:
            self.check()
            process = subprocess.Popen(line, **how)
            self._running.add(process)
        try:
            yield process
        finally:
            if process.poll() is None:
                _end(process)
            with self._lock:
                self._running.discard(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group: first by asking, then by force."""
    if not hasattr(os, "killpg"):  # Windows
        tree = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        subprocess.run(tree, capture_output=True, check=False)
        process.wait()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(process.pid, signal.SIGTERM)
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                process.poll()  # what ended and was not waited for is still of the group
                os.killpg(process.pid, 0)
                time.sleep(POLL)
        finally:
            os.killpg(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def last_line(log: Path) -> str:
    """Read the last line that says something."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return printable(said[-1])[:LAST_LINE] if said else ""
    return ""
