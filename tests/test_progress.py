"""Phases of long work say what is done, how far it is and what is left; short work nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import mmselect
from mmselect.progress import counted, phase
from mmselect.terminal import Board, Phase


class Recorder:
    """Is told of phases, and keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def __call__(self, done: int, total: int) -> None:
        self.events.append(("told", done, total))

    @contextmanager
    def phase(self, what: str) -> Iterator[object]:
        self.events.append(("begins", what))
        yield lambda done, total: self.events.append((what, done, total))
        self.events.append(("ends", what))


def test_phases_of_a_selection_begin_before_their_work_and_end_when_all_is_done() -> None:
    told = Recorder()
    x = np.random.default_rng(0).standard_normal((3000, 8))
    how = {"parameters": {"form": "sparse", "neighbours": 5}, "progress": told}
    mmselect.select(features={"a": x}, strategy="facility", budget=20, **how)
    begun = [what for kind, what, *_ in told.events if kind == "begins"]
    for what in ("reading features", "normalising rows", "finding neighbours", "picking"):
        assert what in begun
    ended = [what for kind, what, *_ in told.events if kind == "ends"]
    assert sorted(begun) == sorted(ended)
    search = [event for event in told.events if event[0] == "finding neighbours"]
    assert search == [("finding neighbours", i, 3) for i in (1, 2, 3)]
    at = told.events.index
    assert at(("begins", "finding neighbours")) < at(search[0]) < at(("begins", "picking"))
    assert told.events[-2:] == [("picking", 20, 20), ("ends", "picking")]


@pytest.mark.parametrize("strategy", ["entropy", "bmmal", "coreset", "kmeans"])
def test_a_plain_function_is_told_of_each_phase(pool: Path, strategy: str) -> None:
    seen: list[tuple[int, int]] = []
    mmselect.select(pool, strategy, 5, progress=lambda *told: seen.append(told))
    assert seen and all(0 <= done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1]


def test_without_phases_it_is_the_function_itself() -> None:
    seen: list[tuple[int, int]] = []
    tell = lambda *told: seen.append(told)  # noqa: E731
    assert counted(tell, "picking") is tell
    with phase(tell, "reading") as report:
        assert report is tell


def test_a_board_shows_phases_while_they_last() -> None:
    shown: list[list[tuple[str, int, int | None]]] = []
    board = Board("working", lambda ps: shown.append([(p.what, p.done, p.total) for p in ps]), 0.01)
    with board.phase("outer") as report:
        report(1, 4)
        with board.phase("inner"):
            wait_for(lambda: [("outer", 1, 4), ("inner", 0, None)] in shown)
        assert [] not in shown
    assert shown[-1] == []  # at once, so that nothing else is written beside it
    board(1, 2)
    wait_for(lambda: [("working", 1, 2)] in shown)
    board(2, 2)
    assert shown[-1] == []
    board.close()
    count = len(shown)
    time.sleep(0.03)
    assert len(shown) == count


def wait_for(happened: object) -> None:
    until = time.monotonic() + 10
    while not happened() and time.monotonic() < until:  # type: ignore[operator]
        time.sleep(0.005)
    assert happened()  # type: ignore[operator]


def test_a_line_says_what_is_left() -> None:
    now = time.monotonic()
    half = Phase("finding neighbours", now - 600, 1000, 4000)
    assert half.line() == "finding neighbours: 1,000 of 4,000 (25 %), about 30 min left"
    assert Phase("clustering", now - 20).line() == "clustering: 20 s so far"
    assert Phase("reading", now - 20, 0, 10).line() == "reading: 0 of 10 (0 %)"


SLOW = """
import time
from mmselect import terminal
terminal.LOG = 0.2
with terminal.bar() as told:
    with told.phase("finding neighbours") as report:
        for i in range(9):
            report(i, 9)
            time.sleep(0.1)
print("done")
"""


def test_a_log_gets_plain_lines_now_and_then() -> None:
    found = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True)
    lines = found.stderr.splitlines()
    assert found.stdout == "done\n" and 1 <= len(lines) <= 5
    assert all(line.startswith("note: finding neighbours: ") for line in lines)
    assert " of 9 (" in lines[-1] and lines[-1].endswith(" left")
    assert "\x1b" not in found.stderr


def test_a_terminal_gets_bars_that_are_gone_in_the_end() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 1 << 16):
                text += part
        except OSError:  # Linux says so when the other end is closed
            pass
        assert process.stdout is not None and process.stdout.read() == b"done\n"
    os.close(ours)
    assert b"finding neighbours" in text and b"/9" in text
    assert text.rstrip().endswith(b"\x1b[2K")  # the line is wiped


def test_short_work_says_nothing_in_a_log(pool: Path) -> None:
    command = [sys.executable, "-m", "mmselect", "select", str(pool), "-b", "3", "-s", "bmmal"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
