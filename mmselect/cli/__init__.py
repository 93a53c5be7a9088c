"""The command line; the only part that knows typer and rich."""

from mmselect.cli.app import COMMANDS, app, run

__all__ = ["COMMANDS", "app", "run"]
