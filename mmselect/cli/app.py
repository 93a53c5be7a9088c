"""The command line: parse, call, print. Its commands, and how it ends.

Numerical libraries are imported inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmselect.cli import compare, look, pack, pools, select, study
from mmselect.cli.completion import whole_words
from mmselect.cli.options import Later
from mmselect.errors import MmselectError, UsageError
from mmselect.terminal import fail
from mmselect.version import __version__

COMMANDS = (
    pools.demo,
    pack.pack,
    pools.check,
    pools.info,
    pools.strategies,
    select.score,
    select.select,
    look.look,
    compare.verify,
    compare.diff,
    select.embed,
    study.align,
    study.replay,
)
"""As the help page lists them."""


class Commands(TyperGroup):
    """All commands, each by its name."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given | {"commands": [Later(command) for command in COMMANDS]})


app = typer.Typer(
    name="mmselect",
    cls=Commands,
    help="Say which samples of a multimodal pool to label next.",
    epilog="Start with: mmselect demo. In its folder every example of a help page runs.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing help with rich would double the time it takes to appear
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmselect {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Say which samples of a multimodal pool to label next."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(UsageError.exit_code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; turn what went wrong into one line and an exit code.

    Parameters
    ----------
    arguments : list of str, optional
        What follows ``mmselect``; default: this process's arguments.
    """
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # there is no SIGHUP on Windows
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda number, _: sys.exit(128 + number))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    usage_error: type[Any] = typer.BadParameter.__mro__[1]  # wherever typer keeps its click
    try:
        given = sys.argv[1:] if arguments is None else arguments
        with whole_words(os.environ):
            code = app(given, prog_name="mmselect", standalone_mode=False, obj=given)
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "mmselect"
        return fail(
            f"{error.format_message().rstrip('.')}; try: {command} --help", UsageError.exit_code
        )
    except MmselectError as error:
        return fail(str(error), error.exit_code)
    except MemoryError:
        return fail("not enough memory; try a smaller --memory, or fewer candidates", 1)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # a help page whose reader has gone
            return 0
        raise
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        return fail("interrupted", 130)
    return int(code or 0)
