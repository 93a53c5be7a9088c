"""The command line; the only part that knows typer and rich."""

from mmselect.cli.app import app, run

__all__ = ["app", "run"]
