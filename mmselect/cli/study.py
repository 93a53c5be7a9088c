"""Commands that train: projectors into one space, and heads in a replay of active learning."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmselect.ask import Aligning, Replaying
from mmselect.cli.around import file_target, progress_bar, show, show_json, target_of, targets
from mmselect.cli.options import HDF5File, OutputFile, Pools, Quiet, TextOrJson, form_option
from mmselect.errors import UsageError, needing
from mmselect.files import check_targets, make_folder
from mmselect.terminal import notices

if TYPE_CHECKING:
    from mmselect.replay.plan import Plan


def align(
    pools: Pools,
    ask: Aligning,
    output: HDF5File,
    form: TextOrJson = "text",
    quiet: Quiet = False,
) -> None:
    """Bring the features of all modalities into one space.

    Trains one linear projector per modality, without labels (stage 1 of MMCSAL), and writes a new
    pool. Prints the modality gap before and after. Needs torch.
    """
    with needing("align", "torch", "torch"):
        from mmselect.torch import align_features
    from mmselect.describe.alignment import aligned_rows

    target = file_target(output)
    with progress_bar(quiet, "training projectors") as progress:
        made = align_features(pools, target, **asdict(ask), progress=progress)
    notices(made.warnings, quiet)
    show_json(made.report) if form == "json" else show(aligned_rows(made.report))


def replay(
    context: typer.Context,
    pools: Pools,
    ask: Replaying,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ACCURACY",
            help="Compare its price in labels, drawn on if not reached; default: random's last.",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Also write a page with figures, and the runs, here."),
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Keep finished runs here, and go on from them; default: runs in the report.",
        ),
    ] = None,
    combine: Annotated[
        bool,
        typer.Option(
            "--combine", help="Play nothing: count wins over finished replays, given as POOL."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Play nothing: count what --train would train, and how long."
        ),
    ] = False,
    output: OutputFile = None,
    form: Annotated[str | None, form_option("text", "csv", "json")] = None,
    quiet: Quiet = False,
) -> None:
    """Play active learning on a pool with known labels.

    Which strategy to trust on this data: select, reveal labels, refit linear heads or train with
    your own command, measure, for every strategy and seed. Says which differences are more than
    noise.
    """
    from mmselect.output.emitting import REPORT_ENDINGS, decide, emit
    from mmselect.replay.plan import plan
    from mmselect.replay.runs import play_all
    from mmselect.replay.summary import foresight, parse_target, summarize
    from mmselect.replay.tables import FORMS, tables

    form = decide(REPORT_ENDINGS, form, target_of(output))
    command = shlex.join(["mmselect", *context.obj])
    if combine:
        if vars(ask) != vars(Replaying()) or target is not None or runs or dry_run:
            raise UsageError("combine: expected finished replays and nothing to play")
        _combine(pools, report, command, form, target_of(output), quiet)
        return
    goal = None if target is None else parse_target(target)
    if goal is not None and not ask.rounds:
        raise UsageError("target: expected rounds, since first batches have no curve")
    check_targets(targets(output), pools)
    folder = Path(runs) if runs else Path(report) / "runs" if report else None
    if dry_run:
        _count(plan(pools, ask, folder), form, target_of(output))
        return
    if report:
        make_folder(Path(report))
    if folder is not None:
        make_folder(folder)
    with _kept(folder, quiet), progress_bar(quiet, "playing runs") as progress:
        found = play_all(
            pools,
            ask,
            folder,
            progress,
            lambda some: notices(foresight(some, ask.seeds), quiet),
            lambda line: notices([line], quiet),
        )
    summary = summarize(found, goal)
    notices(found.warnings, quiet)
    if report:
        from mmselect.replay.report import write_report

        page, *others = write_report(found, summary, Path(report), command)
        lacking = "its figures as files need matplotlib: pip install 'mmselect[report]'"
        drawn = any(file.suffix == ".svg" for file in others)
        notices([f"report: {page}", *([] if drawn else [lacking])], quiet)
    written = target_of(output)
    if form == "text" and written is None:
        show(tables(found, summary))
    else:
        emit(FORMS[form](found, summary), written)


def _count(made: Plan, form: str, target: Path | None) -> None:
    """Say how much training there is to do."""
    from mmselect.output.emitting import emit
    from mmselect.output.layout import aligned
    from mmselect.output.tables import as_json

    if form == "csv":
        raise UsageError("dry run: expected text or json as format, found csv")
    if form == "json":
        emit(
            [f"{as_json({**made._asdict(), 'seconds': made.seconds}, indent=1)}\n".encode()], target
        )
    elif target is None:
        show([made.rows()])
    else:
        emit(aligned(made.rows()), target)


def _combine(
    places: list[str],
    report: str | None,
    command: str,
    form: str,
    target: Path | None,
    quiet: bool,
) -> None:
    """Count over finished replays who beats whom."""
    from mmselect.output.emitting import emit
    from mmselect.replay.combined import FORMS, combined_tables, write_combined
    from mmselect.replay.combining import combine

    made = combine(places)
    if report:
        notices([f"report: {write_combined(made, Path(report), command)}"], quiet)
    if form == "text" and target is None:
        show(combined_tables(made))
    else:
        emit(FORMS[form](made), target)


@contextlib.contextmanager
def _kept(folder: Path | None, quiet: bool) -> Iterator[None]:
    """Say, when a replay is interrupted, that its finished runs are not lost."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None:
            notices([f"finished runs are in {folder}; the same command goes on from them"], quiet)
        raise
