"""What Tab gives, through the protocol that bash, zsh and fish speak with the program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmselect.cli import run
from mmselect.cli.completion import PARAMETERS
from mmselect.cli.select import SCORE, SELECT
from mmselect.strategies import registry

HEAVY = ("numpy", "scipy", "h5py", "faiss")


def said(shell: str, line: str) -> dict[str, str]:
    """What a shell says in its environment when Tab is pressed at the end of a line."""
    words = line.split("\n" if "\n" in line else " ")
    return {
        "_MMSELECT_COMPLETE": f"complete_{shell}",
        **{
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
            "zsh": {"_TYPER_COMPLETE_ARGS": line},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell],
    }


def offered(shell: str, out: str) -> list[str]:
    """Words that a shell would offer."""
    if shell == "zsh":  # _arguments '*: :(("word" "word"))'
        inside = out.partition("((")[2].partition("))")[0]
        return [word.strip('"').replace("\\", "") for word in inside.split()]
    return [word.split("\t")[0] for word in out.split("\n") if word]


@pytest.fixture
def complete(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str, str], list[str]]:
    """Words that a shell would offer at the end of a line, in the folder of a pool."""
    monkeypatch.chdir(pool.parent)

    def call(shell: str, line: str) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in said(shell, line).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as stop:
                run([])
        assert not stop.value.code
        return offered(shell, capfd.readouterr().out)

    return call


SHELLS = ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", SHELLS)
def test_names_are_completed_without_a_numerical_library(shell: str, tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from mmselect.cli import run; "
        f"atexit.register(lambda: print(*sorted(set({HEAVY}) & set(sys.modules)), "
        "file=sys.stderr)); run()"
    )
    environment = {**os.environ, **said(shell, "mmselect select pool.h5 -s ")}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    names = {"auto", "column:", *registry.BUILT_IN} - {"column:NAME"}
    assert set(offered(shell, found.stdout)) == names
    assert found.stderr.strip() == ""  # no heavy module, and no traceback


@pytest.mark.parametrize("shell", SHELLS)
def test_columns_of_the_pool_on_the_line_are_completed(shell: str, complete) -> None:
    assert complete(shell, "mmselect select pool.h5 --where l") == ["loss="]
    assert complete(shell, "mmselect score pool.h5 --columns ") == ["caption", "loss"]


LINES = {
    "mmselect sel": ["select"],
    "mmselect select pool.h5 --format ": [*SELECT],
    "mmselect score --format p": ["parquet"],
    "mmselect info pool.h5 --format ": ["text", "json"],
    "mmselect select pool.h5 --strategy bad": ["badge"],
    "mmselect select pool.h5 -s smem -p a": ["alpha.image=", "alpha.text=", "activation="],
    "mmselect select pool.h5 -s column:": ["column:caption", "column:loss"],
    "mmselect replay pool.h5 -s bmmal,ba": ["bmmal,bald", "bmmal,badge"],
    "mmselect score pool.h5 --columns loss,c": ["loss,caption"],
    "mmselect select pool.h5 --balance ": ["caption", "loss", "predicted"],
    "mmselect select pool.h5 --at-most p": ["predicted="],
    "mmselect select pool.h5 --spread ": ["d2", "facility"],
    "mmselect strategies ty": ["typiclust"],
    "mmselect select no-pool.txt --where ": [],
    "mmselect select pool.h5 --where a -s smem -s b": ["bald", "badge", "bmmal"],
}


@pytest.mark.parametrize("line", LINES)
def test_lines(line: str, pool: Path, complete) -> None:
    (pool.parent / "no-pool.txt").write_text("no pool")
    assert complete("bash", line) == LINES[line]


IN_BASH = {
    # bash parts words at : and =, and replaces what comes behind
    "-s column : lo": ["loss"],
    "-s column :": ["caption", "loss"],
    "--strategy = bad": ["badge"],
    "--strategy = column : c": ["caption"],
    "--group caption : 2 --where lo": ["loss="],
    "-s column: --where lo": ["loss="],
    "--where caption = x -s typi": ["typiclust"],
}


@pytest.mark.parametrize("line", IN_BASH)
def test_words_that_bash_parts(line: str, complete) -> None:
    words = f"mmselect select pool.h5 {line}".replace(" ", "\n")
    assert complete("bash", words) == IN_BASH[line]


def test_the_names_that_are_completed_are_those_of_the_registry() -> None:
    known = {n: tuple(p.name for p in record.parameters) for n, record in registry.BUILT_IN.items()}
    assert known == PARAMETERS
    assert {*SCORE} & {*SELECT}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script(shell: str, tmp_path: Path) -> None:
    environment = {**os.environ, "_MMSELECT_COMPLETE": f"source_{shell}"}
    found = subprocess.run(
        [sys.executable, "-m", "mmselect"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0 and f"complete_{shell}" in found.stdout


TYPED = {
    # a terminal types the line and presses Tab; what the shell then holds is printed
    "zsh": """zmodload zsh/zpty; zpty shell 'zsh -f -i'
zpty -w shell 'PROMPT=; unsetopt beep; autoload -Uz compinit; compinit -u -D; source script'
zpty -w shell "print rea''dy"; zpty -r -m shell line '*ready*'
zpty -w -n shell $'mmselect select -s typi\t'
zpty -r -m shell line '*typiclust*' && print found""",
    "fish": "source script; complete -C 'mmselect select -s typi'",
    "bash": """source script; COMP_WORDS=(mmselect select -s typi); COMP_CWORD=3
_mmselect_completion mmselect; echo ${COMPREPLY[@]}""",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_completes(shell: str, tmp_path: Path) -> None:
    """Where the shell is installed; the protocol is held above in any case."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    program = tmp_path / "mmselect"
    program.write_text(f"#!{sys.executable}\nfrom mmselect.cli import run\nrun()\n")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    how = {**environment, "_MMSELECT_COMPLETE": f"source_{shell}"}
    script = subprocess.run([program], env=how, capture_output=True, text=True, check=True)
    (tmp_path / "script").write_text(script.stdout)
    found = subprocess.run(
        [shell, "-c", TYPED[shell]],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.split()[-1:] in (["typiclust"], ["found"]), found.stderr
