"""Commands that look at the candidates: score them, select among them, write their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmselect.ask import Embedding, Scoring, Selecting
from mmselect.cli.options import (
    HDF5File,
    OutputFile,
    Pools,
    Quiet,
    file_target,
    form_option,
    one_of,
    prepared,
    progress_bar,
    show,
    show_json,
    takes,
    target_of,
    targets,
    told,
)
from mmselect.errors import UsageError
from mmselect.files import check_targets


@takes(Scoring)
def score(
    pools: Pools,
    ask: Scoring,
    output: OutputFile = None,
    form: Annotated[str, form_option("csv|jsonl|npy|h5")] = "csv",
    quiet: Quiet = False,
) -> None:
    """Score every candidate, one row per sample.

    Candidates are the samples that are neither labeled nor excluded. Larger = label first.
    Columns: id, score, and the strategy's components.
    """
    from mmselect.output.emitting import SCORE_FORMS, write
    from mmselect.selection import carry_out_scores

    one_of("format", form, tuple(SCORE_FORMS))
    check_targets(targets(output), pools)
    with prepared(pools, ask, scores_only=True) as request:
        with told(request, quiet), progress_bar(quiet) as progress:
            result = carry_out_scores(request, progress)
        write(result, form, target_of(output), request.pool)


@takes(Selecting)
def select(
    pools: Pools,
    ask: Selecting,
    output: OutputFile = None,
    form: Annotated[str, form_option("ids|indices|csv|jsonl|json|label-studio|npy")] = "ids",
    nearest: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write, for every candidate, its nearest pick and the distance, as CSV.",
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
    from mmselect.describe.report import as_data
    from mmselect.describe.request import describe_request
    from mmselect.output.emitting import SELECT_FORMS, write, write_neighbours
    from mmselect.request import count_budget
    from mmselect.selection import carry_out, require_distance

    one_of("format", form, tuple(SELECT_FORMS))
    if nearest == "-":
        raise UsageError("nearest: expected a file, found '-': standard output takes the picks")
    check_targets(targets(output, nearest), pools)
    with prepared(pools, ask) as request:
        with told(request, quiet):
            k = count_budget(ask, request)
            if nearest is not None:
                require_distance(request)
            if not dry_run:
                with progress_bar(quiet) as progress:
                    result = carry_out(request, k, ask.seed, progress, nearest is not None)
        if dry_run:
            report = describe_request(request, k, ask.seed)
            show_json(as_data(report)) if form == "json" else show(report.rows())
            return
        if nearest is not None and result.nearest is not None:
            write_neighbours(result.nearest, Path(nearest))
        write(result, form, target_of(output), request.pool)


@takes(Embedding)
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
    with prepared(pools, ask) as request, told(request, quiet), progress_bar(quiet) as progress:
        write_embedding(request, target, ask, progress)
