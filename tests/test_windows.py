"""Windows, as far as another system can show it: nothing is called that is missing there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmselect
from mmselect.cli import COMMANDS

ROOT = Path(__file__).parent.parent
CORE = ["test_cli.py", "test_output.py", "pool/test_writer.py"]

MODULES = {"fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "syslog"}

CALLS = {
    "os": (
        *("pread", "preadv", "pwrite", "pwritev", "posix_fadvise", "posix_fallocate"),
        *("sched_getaffinity", "fchmod", "fchown", "chown", "sendfile", "mkfifo", "uname"),
        *("killpg", "setsid", "getpgid", "nice", "statvfs", "lockf", "fdatasync"),
    ),
    "signal": ("SIGHUP", "SIGALRM", "SIGKILL", "setitimer", "alarm", "pthread_sigmask"),
}
"""What the modules of Windows do not have; pytest itself takes a few more on other systems."""

PROGRAM = f"""
import os, signal, sys
import faiss, h5py, joblib, pandas, pyarrow, pytest, rich.progress, scipy.sparse, sklearn.cluster
import typer  # these ask what the system is, and may take what it has
for name in {CALLS["os"]!r}:
    os.__dict__.pop(name, None)
for name in {CALLS["signal"]!r}:
    signal.__dict__.pop(name, None)
sys.modules.update(dict.fromkeys({sorted(MODULES)!r}))
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""

LEFT_OUT = " or ".join(
    (
        *("failed_write", "hdf5_is_kept", "into_a_pipe"),  # they call pwrite, or make a pipe
        *("every_strategy", "random_follows", "smaller_budget", "read_of_a_row"),  # long
    )
)


@pytest.mark.usefixtures("unmeasured")  # these tests are measured where they stand
def test_the_core_of_the_suite_passes_without_the_calls_that_windows_lacks() -> None:
    files = [str(ROOT / "tests" / name) for name in CORE]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files, "-k", f"not ({LEFT_OUT})"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-2000:]


@pytest.mark.parametrize("path", sorted((ROOT / "mmselect").rglob("*.py")), ids=lambda p: p.stem)
def test_what_is_missing_there_is_asked_for_first(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not re.search(rf"\b({'|'.join((*MODULES, *CALLS))})\b", text):
        return
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef | ast.Module):
            continue
        asked = {
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        tried = {id(n) for t in ast.walk(function) if isinstance(t, ast.Try) for n in t.body}
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & MODULES or id(node) in tried
            if isinstance(node, ast.ImportFrom):
                assert node.module not in MODULES or id(node) in tried
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                known = CALLS.get(node.value.id, ())
                assert node.attr not in known or node.attr in asked, f"{path}: {node.attr}"


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_help_can_be_printed_in_its_old_code_page(command: str, cli) -> None:
    assert cli(command, "--help").out.encode("cp1252")


def test_the_package_says_its_version_there_too() -> None:
    code = PROGRAM.split("sys.exit")[0] + "import mmselect; print(mmselect.__version__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == f"{mmselect.__version__}\n", found.stderr
