"""The command that lets a person see the picks."""

from __future__ import annotations

from typing import Annotated

import typer

from mmselect.ask import Looking
from mmselect.cli.around import opened, progress_bar, target_of, targets
from mmselect.cli.options import Quiet
from mmselect.files import check_targets
from mmselect.lists import ListFile, read_list
from mmselect.terminal import notices


def look(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="POOL... [PICKS]",
            help="Pool file, or its shards; then what select wrote, in any form, or - for stdin.",
        ),
    ],
    ask: Looking,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="PAGE", help="Write here, as HTML.")
    ],
    quiet: Quiet = False,
) -> None:
    """Show the picks on one page.

    Pictures, texts, predictions, why each was picked, a map of the pool. Tick what should not be
    labeled, and save that as a list for --exclude. The page is one file that loads nothing.
    Without PICKS, picks --budget many first.
    """
    from mmselect.looking.page import page_of, view_of
    from mmselect.output.emitting import emit

    pools, picks = _parted(paths)
    check_targets(targets(output), [path for path in paths if path != "-"])
    with progress_bar(quiet) as progress, opened(pools, progress) as pool:
        view = view_of(pool, ask, picks, progress)
        emit([page_of(view)], target_of(output))
    notices(view.warnings, quiet)


def _parted(paths: list[str]) -> tuple[list[str], ListFile | None]:
    """Part pool and picks: what comes last and is no HDF5 file is a list."""
    import h5py

    *pools, last = paths
    if last != "-" and (not pools or h5py.is_hdf5(last)):
        return paths, None
    return pools, read_list(last)
