"""Help pages: what they show, and at which width."""

from __future__ import annotations

import pytest

from mmselect.cli import app
from mmselect.cli.examples import EXAMPLES

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def test_every_command_has_two_or_three_examples() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert {2, 3} >= {len(lines) for lines in EXAMPLES.values()}


@pytest.mark.parametrize("command", COMMANDS)
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
