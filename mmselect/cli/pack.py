"""The command that makes a pool of the files people have."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mmselect.cli.around import file_target, progress_bar, show, show_json
from mmselect.cli.options import HDF5File, Quiet, TextOrJson
from mmselect.packing.asking import Packing
from mmselect.terminal import notices


def pack(
    ask: Packing,
    output: HDF5File,
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="A table; SOURCE may then be one of its columns."),
    ] = None,
    form: TextOrJson = "text",
    quiet: Quiet = False,
) -> None:
    """Make a pool from the files you have.

    SOURCE is FILE or FILE:KEY. Files are npy, folders of npy, npz:KEY, safetensors:KEY, pt:KEY,
    csv:COLUMN, parquet:COLUMN (files and folders), h5:/PATH, h5ad and h5mu:obsm/KEY, obs/COLUMN or
    obs_names. They are read in row blocks. Prints what can run now, and what would add more.
    """
    from mmselect.packing.pack import carry_out

    target = file_target(output)
    with progress_bar(quiet, "packing rows") as progress:
        made = carry_out(ask, target, table, progress)
    notices(made.notices, quiet)
    show_json(asdict(made)) if form == "json" else show(made.rows())
