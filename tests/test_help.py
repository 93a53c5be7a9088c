"""Help pages: what they show, and at which width."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from conftest import INSTALLED

from mmselect.cli import COMMANDS
from mmselect.cli.examples import EXAMPLES

NAMES = [command.__name__ for command in COMMANDS]


def test_every_command_has_two_or_three_examples() -> None:
    assert set(EXAMPLES) == set(NAMES)
    assert {2, 3} >= {len(lines) for lines in EXAMPLES.values()}


@pytest.mark.parametrize("command", NAMES)
def test_a_help_page_fits_80_columns_and_ends_with_examples(
    command: str, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = cli(command, "--help").out
    assert max(map(len, page.splitlines())) <= 80
    assert "<list" not in page and "{" not in page.splitlines()[0]
    body, examples = page.split("\nExamples:\n")
    assert body.startswith(f"Usage: mmselect {command} ")
    shown = "".join(line.removeprefix("  ") + "\n" for line in examples.splitlines())
    assert shown == "".join(f"{line}\n" for line in EXAMPLES[command])
    assert all(line.startswith(f"mmselect {command}") for line in EXAMPLES[command])


@pytest.mark.parametrize("name", [*INSTALLED, "column:NAME", "column:loss"])
def test_a_strategy_is_shown_with_an_example_that_runs(pool: Path, cli, name: str) -> None:
    found = json.loads(cli("strategies", name, pool, "--format", "json").out)
    assert found["name"] == name and found["summary"] and not found.get("lacks")
    program, *example = shlex.split(found["example"])
    if name != "column:NAME":
        assert program == "mmselect" and cli(*example, "-q").out.count("\n") == 3


def test_one_strategy_for_people(pool: Path, cli) -> None:
    text = cli("strategies", "smem").out
    assert "example  mmselect select pool.h5 --strategy smem -p preset=full" in text
    assert "a number of at\n             least 0" in text and "random" not in text
    assert "lacks" not in text and cli("strategies", pool).out.count("needs") > 20
    found = cli("strategies", "smmem")
    assert found.code == 2 and "did you mean 'smem'?" in found.err


@pytest.mark.parametrize("command", NAMES)
def test_every_command_can_be_told_to_be_quiet(command: str, cli) -> None:
    assert "-q, --quiet" in cli(command, "--help").out
