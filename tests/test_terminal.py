from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from mmselect.cli import run
from mmselect.demo import EMOJI
from mmselect.output.layout import Leader, aligned, percent
from mmselect.terminal import notices

COLOUR = re.compile("\x1b\\[[\\d;]*m")
REPLAYED = ["--rounds", "1", "--seeds", "2", "--strategies", "random,entropy,least-confidence"]
COMMANDS = {
    "demo": ["demo", "here"],
    "info": ["info", str(EMOJI)],
    "strategies": ["strategies"],
    "strategy": ["strategies", "smem"],
    "pack": ["pack", "-o", "new.h5", "--features", f"image={EMOJI}:/features/image"],
    "plan": ["select", str(EMOJI), "-b", "9", "--dry-run"],
    "verify": ["verify", "a.json"],
    "diff": ["diff", "a.json", "b.json", str(EMOJI)],
    "replay": ["replay", str(EMOJI), *REPLAYED, "--runs", "runs"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two selections."""
    made = tmp_path_factory.mktemp("terminal")
    for name, strategy in (("a", "random"), ("b", "entropy")):
        picked = ["select", str(EMOJI), "-b", "20", "-s", strategy]
        assert run([*picked, "-o", str(made / f"{name}.json")]) == 0
    return made


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, for commands in an environment that says nothing of the terminal."""
    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.chdir(made)
    return made


def on_terminal(command: list[str], columns: int) -> str:
    """What a terminal of a width gets on standard output of a command in this process."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while part := os.read(ours, 1 << 16):
                parts.append(part)

    reader, before = threading.Thread(target=read), os.dup(1)
    reader.start()
    os.dup2(theirs, 1)
    try:
        with open(1, "w", closefd=False) as shown, contextlib.redirect_stdout(shown):
            code = run(command)
    finally:
        os.dup2(before, 1)
        for each in (theirs, before):
            os.close(each)
        reader.join()
        os.close(ours)
    assert code == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def words(text: str) -> set[str]:
    return {word for word in COLOUR.sub("", text).split() if word != "\\"}


def too_wide(text: str, columns: int) -> list[str]:
    """Lines that leave the page, but for those that hold one path."""
    lines = [line.expandtabs(8) for line in COLOUR.sub("", text).splitlines()]
    return [
        line
        for line in lines
        if len(line) > columns and str(EMOJI) not in line and "\u200d" not in line
    ]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("few_penalties", "folder")
def test_reports_fit_the_width_at_hand(cli: Callable[..., Result], name: str) -> None:
    code, piped, _ = cli(*COMMANDS[name])
    assert code == 0
    assert not too_wide(piped, 80) and "\x1b" not in piped
    for columns in (80,) if name == "demo" else (60, 80):
        shown = on_terminal(COMMANDS[name], columns)
        assert not too_wide(shown, columns)
        assert words(shown) == words(piped)  # nothing is lost, and no word is cut
        if columns == 80:
            assert COLOUR.sub("", shown) == piped
            assert COLOUR.search(shown)


@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.usefixtures("folder")
def test_colour_that_nobody_wants(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    plain = cli(*COMMANDS["diff"]).out
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    assert on_terminal(COMMANDS["diff"], 80) == plain


@pytest.mark.usefixtures("folder")
def test_a_pipe_gets_the_same_bytes_whatever_is_said_of_the_terminal() -> None:
    command = [sys.executable, "-m", "mmselect", *COMMANDS["info"]]
    plain, wide = (
        subprocess.run(command, env={**os.environ, **more}, capture_output=True, check=True).stdout
        for more in ({}, {"COLUMNS": "200"})
    )
    assert plain and plain == wide


def marked(text: str, part: str) -> str:
    return f"<{part}>{text}</>"


def laid(rows: list[tuple[object, ...]], *how: object) -> list[str]:
    return b"".join(aligned(rows, *how)).decode().splitlines()


def test_colour_takes_no_room() -> None:
    rows = [("strategy", "accuracy", "seconds"), ("smem", Leader("71.0"), 2), ("random", "65.0", 1)]
    painted = laid(rows, 80, marked)
    assert painted[0] == "<head>strategy</>  <head>accuracy</>  <head>seconds</>"
    assert painted[1] == "smem      <leader>71.0</>      2"
    assert [re.sub("<[^>]*>", "", line) for line in painted] == laid(rows)
    listed = [("smem (scores)", "What it does"), ("    needs", "logits")]
    assert laid(listed, 80, marked)[1].startswith("<detail>    needs</>      logits")


def test_a_table_that_is_too_wide_goes_on_below() -> None:
    head = ("wins over", *(f"strategy-{i}" for i in range(12)))
    rows = [head, *((name, *(f"{i}.{j}" for j in range(12))) for i, name in enumerate(head[1:]))]
    lines = laid(rows, 60)
    assert max(map(len, lines)) <= 60
    bands = "\n".join(lines).split("\n\n")
    assert len(bands) == 4 and all(band.startswith("wins over    strategy-") for band in bands)
    found = [[line.split() for line in band.splitlines()[1:]] for band in bands]
    whole = [[cell for band in found for cell in band[i][1:]] for i in range(12)]
    assert whole == [list(row[1:]) for row in rows[1:]]


def test_numbers_stay_whole() -> None:
    rows = [("", "labels for 47.3 %", "against"), ("smem", "120", "-1.4 [-52.6, +49.8]")]
    assert laid(rows, 40) == [
        "      labels for  against",
        "      47.3 %",
        "smem  120         -1.4 [-52.6, +49.8]",
    ]
    assert laid([("share", f"of all {percent(0.5)}")], 17)[-1].endswith(" 50.0 %")
    assert laid([("a-word-that-is-wider-than-the-line",)], 9) == [
        "a-word-that-is-wider-than-the-line"
    ]


def test_a_long_path_takes_nothing_else_over_the_line() -> None:
    rows = [("files", "/" + "deep/" * 12 + "pool.h5"), ("samples", "many of them, " * 4)]
    lines = [line.decode().rstrip("\n") for line in aligned(rows, 40)]
    assert [len(line) > 40 for line in lines] == [True, False, False]


def test_notices_are_cut_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "facility: counts each sample by how unsure /metadata/a-rather-long-name makes it"
    notices([line], quiet=False)
    assert capsys.readouterr().err == f"note: {line}\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "44")
    monkeypatch.setenv("NO_COLOR", "1")
    notices([line], quiet=False)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 3 and not too_wide(shown, 44)
    assert words(shown) == words(f"note: {line}")
