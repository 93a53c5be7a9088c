"""Commands that look at the candidates: score them, select among them, write their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmselect.ask import Embedding, Scoring, Selecting
from mmselect.cli.around import (
    file_target,
    how_to,
    parts_of,
    prepared,
    show_report,
    target_of,
    targets,
    told,
)
from mmselect.cli.options import ColumnNames, HDF5File, OutputFile, Pools, Quiet, form_option
from mmselect.errors import UsageError
from mmselect.files import check_targets

SCORE = ("csv", "jsonl", "npy", "h5", "parquet")
TOOLS = ("label-studio", "cvat", "fiftyone", "prodigy", "argilla")
SELECT = ("ids", "indices", "csv", "jsonl", "json", *TOOLS, "npy")
"""Formats, named here so that help needs no numerical library; ``output/emitting.py`` has them."""


def score(
    pools: Pools,
    ask: Scoring,
    output: OutputFile = None,
    form: Annotated[str | None, form_option(*SCORE)] = None,
    columns: ColumnNames = None,
    quiet: Quiet = False,
) -> None:
    """Score every candidate, one row per sample.

    Candidates are the samples that are neither labeled nor excluded. Larger = label first.
    Columns: id, score, and the strategy's components.
    """
    from mmselect.output.emitting import SCORE_FORMS, check_form, decide, endings, write
    from mmselect.selection import carry_out_scores

    target, how = target_of(output), how_to(columns)
    check_targets(targets(output), pools)
    name = decide(endings(SCORE_FORMS), form, target)
    with prepared(pools, ask, quiet, scores_only=True) as request:
        check_form(SCORE_FORMS, name, how, target, request.pool)
        with told(request, quiet):
            result = carry_out_scores(request)
        write(result, name, target, request.pool, how)


def select(
    pools: Pools,
    ask: Selecting,
    output: OutputFile = None,
    form: Annotated[str | None, form_option(*SELECT)] = None,
    columns: ColumnNames = None,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO",
            help="Label Studio: add the fused head's class, for these control and object tags.",
        ),
    ] = None,
    split: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Deal the picks to N files in turn; -o has {} where the number goes.",
        ),
    ] = None,
    nearest: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write, for every candidate, its nearest pick and the distance, as CSV: this "
            "compares all candidates with the picks, which may take longer than picking.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run; pick nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Select the samples to label next.

    Prints their ids, in pick order.
    """
    from mmselect.output.emitting import (
        SELECT_FORMS,
        check_form,
        check_parts,
        decide,
        deliver,
        endings,
        write_neighbours,
    )
    from mmselect.request import count_budget, most_picks
    from mmselect.selection import carry_out, require_distance

    if nearest == "-":
        raise UsageError("nearest: expected a file, found '-': standard output takes the picks")
    to, how = parts_of(output, split), how_to(columns, predict)
    check_targets([*filter(None, to), *targets(nearest)], pools)
    name = decide(endings(SELECT_FORMS), form, to[0])
    with prepared(pools, ask, quiet) as request:
        check_form(SELECT_FORMS, name, how, to[0], request.pool)
        with told(request, quiet):
            k = count_budget(ask, request)
            check_parts(len(to), most_picks(request, k))
            if nearest is not None:
                require_distance(request)
            if not dry_run:
                result = carry_out(request, k, ask.seed, nearest is not None)
        if dry_run:
            from mmselect.describe.request import describe_request

            report = describe_request(request, k, ask.seed)
            show_report(report, form)
            return
        if nearest is not None and result.nearest is not None:
            write_neighbours(result.nearest, Path(nearest))
        deliver(result, name, to, request.pool, how)


def embed(
    pools: Pools,
    ask: Embedding,
    output: HDF5File,
    quiet: Quiet = False,
) -> None:
    """Write the candidates' gradient embeddings.

    Rescaled by the contributions of the modalities (bmmal), or as they are (badge).
    """
    from mmselect.embedding import write_embedding

    target = file_target(output)
    check_targets([target], pools)
    with prepared(pools, ask, quiet) as request, told(request, quiet):
        write_embedding(request, target, ask)
