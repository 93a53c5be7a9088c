"""Worker processes: same results in any number, and none outlives the process it works for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmselect.replay.workers import run_tasks

POSIX = pytest.mark.skipif(os.name != "posix", reason="kill -9 and ps are those of POSIX")
PARENT = """
import sys, time
from mmselect.replay.workers import run_tasks
if __name__ == "__main__":
    for _ in run_tasks(time.sleep, [(300,), (300,)], 2):
        pass
"""
ORPHAN = """
import os, time
from mmselect.replay.workers import end_with
end_with(os.getppid() + 1)
time.sleep(300)
"""


def descendants(pid: int) -> set[int]:
    """Processes below one, from the table of all that run."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = dict(map(int, line.split()) for line in table.stdout.splitlines())
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def running(pids: set[int]) -> set[int]:
    """Those of the processes that still run; one that nobody waited for does not."""
    table = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True)
    states = dict(line.split()[:2] for line in table.stdout.splitlines())
    return {p for p in pids if states.get(str(p), "Z")[0] != "Z"}


def within(seconds: float, done: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@POSIX
def test_workers_end_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT])
    try:
        assert within(60, lambda: len(descendants(parent.pid)) >= 2)
        time.sleep(1)  # the tasks have begun
        workers = descendants(parent.pid)
        parent.kill()
        parent.wait()
        assert within(20, lambda: not running(workers))
    finally:
        parent.kill()


@POSIX
def test_a_worker_whose_parent_has_ended_already_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], timeout=60)
    assert done.returncode == 1


def test_tasks_in_processes_and_from_a_thread_that_ends() -> None:
    """The workers stay for the next call, though the thread that started them is gone."""
    tasks = [(i, 2) for i in range(6)]
    expected = [(i, i**2) for i in range(6)]
    assert list(run_tasks(pow, tasks, 1)) == expected
    found: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: found.extend(run_tasks(pow, tasks, 2)))
    thread.start()
    thread.join()
    assert sorted(found) == expected
    assert sorted(run_tasks(pow, tasks, 2)) == expected


def test_a_worker_leaves_nothing_in_its_place(tmp_path: Path) -> None:
    """A task that fails raises in the parent; the next tasks run."""
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(divmod, [(1, 0), (1, 0)], 2))
    assert sorted(run_tasks(divmod, [(7, 2)], 2)) == [(0, (3, 1))]
