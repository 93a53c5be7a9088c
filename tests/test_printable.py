"""What others wrote never commands the terminal: names, classes, metadata, paths, ids, lists."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect

CODES = ("\x1b[2J", "\x9b31m", "\u202e", "\x07", "\u2028", "\x7f")
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A pool whose every text that may be anything holds what a terminal obeys."""
    said, n = "".join(CODES), 60
    given = {
        **arrays(n),
        "class_names": [f"class {i}{said}" for i in range(5)],
        "metadata": {"caption": [f"{i}{said}" for i in range(n)], "loss": np.arange(n)},
    }
    path = tmp_path / f"a{said}.h5"
    mmselect.write_pool(path, **given)
    with h5py.File(path, "r+") as handle:
        handle[f"odd{said}"] = handle[f"metadata/odd{said}"] = 1
    return path


COMMANDS = {
    "check": ["check"],
    "info": ["info"],
    "info as JSON": ["info", "--format", "json"],
    "strategies": ["strategies"],
    "plan": ["select", "-b", "2", "--dry-run"],
    "picks as JSON": ["select", "-b", "2", "--format", "json"],
    "picks with metadata": ["select", "-b", "2", "--format", "jsonl", "--columns", "caption"],
    "tasks": ["select", "-b", "2", "--format", "label-studio"],
    "unknown ids": ["select", "-b", "2", "--exclude", "LIST"],
    "unknown value": ["select", "-b", "2", "--where", f"loss={CODES[0]}"],
    "usage": ["select", "-b", f"2{CODES[0]}"],
    "no such option": [f"--{CODES[0]}"],
    "replay": ["replay", "-s", "random", "-b", "9", "--rounds", "1", "--seeds", "2"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_no_code_reaches_a_terminal_or_a_pipe(odd: Path, cli, tmp_path: Path, case: str) -> None:
    listed = tmp_path / f"list{CODES[0]}"
    listed.write_text("".join(f"{code}x\n" for code in CODES[:4]))
    command, *more = [str(listed) if word == "LIST" else word for word in COMMANDS[case]]
    found = cli(command, *([] if command.startswith("-") else [odd]), *more)
    assert not OBEYED.search(found.out + found.err), ascii(found.out + found.err)
    if "json" in more:
        assert json.loads(found.out)  # and the file's name is what it was
        assert CODES[0] in found.out.encode().decode("unicode_escape")


def test_tables_of_data_are_written_out_on_a_terminal_alone(odd: Path, cli, monkeypatch) -> None:
    command = ["select", odd, "-b", 2, "--format", "csv", "--columns", "caption", "-q"]
    piped = cli(*command)
    assert CODES[0] in piped.out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = cli(*command)
    assert shown.code == 0 and not OBEYED.search(shown.out) and r"\x1b[2J" in shown.out
    assert len(shown.out.splitlines()) == 3


@pytest.mark.parametrize("mark", ["\u202a", "\u202e", "\u2066", "\u2069", "\u2028"])
def test_an_id_that_turns_the_line_round_is_refused(pool: Path, cli, mark: str) -> None:
    with h5py.File(pool, "a") as handle:
        handle["id"][6] = f"a{mark}b".encode()
    for command in (("score", pool, "-s", "smem"), ("select", pool, "-b", 2), ("check", pool)):
        found = cli(*command)
        assert found.code == 1 and mark not in found.out + found.err
        assert "row 6" in found.out + found.err
