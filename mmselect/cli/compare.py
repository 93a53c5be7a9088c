"""Commands about selections that were made: make one again, and compare two."""

from __future__ import annotations

from typing import Annotated

import typer

from mmselect.ask import Verifying
from mmselect.cli.around import progress_bar, show_report
from mmselect.cli.options import ColumnNames, Quiet, TextOrJson
from mmselect.option import names

PoolsBesides = Annotated[
    list[str] | None,
    typer.Argument(metavar="POOL", help="Pool file; several are shards of one pool."),
]


def verify(
    picks: Annotated[
        str, typer.Argument(metavar="PICKS.json", help="What select --format json wrote.")
    ],
    ask: Verifying,
    pools: PoolsBesides = None,
    form: TextOrJson = "text",
    quiet: Quiet = False,
) -> None:
    """Run the selection of a provenance again.

    Exit code 0 if the picks are the same, else 1; says what differs. Pool and lists are those that
    the provenance names, unless they are given.
    """
    from mmselect.describe.verification import read_selection
    from mmselect.describe.verification import verify as make_again

    selected = read_selection(picks)
    with progress_bar(quiet) as progress:
        found = make_again(selected, pools or [], ask, progress)
    show_report(found, form)
    if not found.same:
        raise typer.Exit(1)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Picks, as select writes them, or a list.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Other picks.")],
    pools: PoolsBesides = None,
    columns: ColumnNames = None,
    form: TextOrJson = "text",
    _quiet: Quiet = False,
) -> None:
    """Compare two selections.

    What they share, also among the first picks; and with their pool, how they differ by metadata,
    predicted class and modality.
    """
    from mmselect.describe.difference import describe_difference
    from mmselect.lists import read_list

    chosen = None if columns is None else names("columns", columns)
    report = describe_difference(read_list(a), read_list(b), pools or [], chosen)
    show_report(report, form)
