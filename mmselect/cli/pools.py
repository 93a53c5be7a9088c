"""Commands about a pool: make one to try, check it, describe it, and what can run on it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from mmselect.ask import Describing, Working
from mmselect.cli.around import opened, progress_bar, show, show_json
from mmselect.cli.completion import PARAMETERS, completer
from mmselect.cli.options import Pools, Quiet, TextOrJson
from mmselect.terminal import notices, page


def demo(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Where to write; made if it is missing.")
    ] = "mmselect-demo",
    _quiet: Quiet = False,
) -> None:
    """Write a small real pool and select from it.

    Shows each command that it runs, and what came out. The pool is made of emoji: drawings and
    names, 3 MB.
    """
    from mmselect.demo import play
    from mmselect.output.emitting import to_stdout

    to_stdout((f"{line}\n".encode() for line in play(Path(folder), *page())), safe=True)


def check(pools: Pools, ask: Working, quiet: Quiet = False) -> None:
    """List everything that is wrong with a pool.

    One line each. Exit code 1 if anything is. Warnings go to stderr and do not count.
    """
    from mmselect.output.emitting import to_stdout
    from mmselect.pool.checking import check as check_pool
    from mmselect.workers import engine_of

    with progress_bar(quiet) as progress:
        found = check_pool(pools, engine_of(ask, progress))
    notices(found.warnings, quiet)
    to_stdout(f"{problem}\n".encode() for problem in found.problems)
    if found.problems:
        raise typer.Exit(1)
    notices([f"{', '.join(pools)}: nothing wrong"], quiet, mark="ok")


def info(pools: Pools, ask: Describing, form: TextOrJson = "text", quiet: Quiet = False) -> None:
    """Describe a pool and what can run on it.

    Sizes, modalities, datasets, the modality gap, contributions of the modalities, and which
    strategies can run and what the others lack. Of a large pool, the gap, contributions and shares
    of predictions are from 20,000 evenly spread rows; counts are of all rows.
    """
    from mmselect.describe.numbers import describe_numbers, rows_to_look_at
    from mmselect.describe.pool import describe_pool
    from mmselect.describe.report import as_data
    from mmselect.pool.values import empty_notices, watched
    from mmselect.workers import engine_of

    with progress_bar(quiet) as progress, opened(pools, progress) as pool:
        pool.columns = {path: watched(column) for path, column in pool.columns.items()}
        report, skipped = describe_pool(pool)
        notices(skipped, quiet)
        looked = rows_to_look_at(pool, ask.full)
        if form == "text":
            show(report.rows())  # before the numbers, of which one may be broken
        numbers = describe_numbers(pool, looked, engine_of(ask, progress))
        if form == "text":
            show(numbers.rows())
        else:
            show_json({**as_data(report), **as_data(numbers)})
        seen = looked.each
        of = f" (of the {len(seen):,} rows looked at)" if numbers.sampled else ""
        notices([f"{said}{of}" for said in empty_notices(pool.columns.values(), seen)], quiet)


def strategies(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [POOL...]",
            help="One strategy, with an example; and what this pool lacks for it.",
            autocompletion=completer("strategy", None),
        ),
    ] = None,
    form: TextOrJson = "text",
    quiet: Quiet = False,
) -> None:
    """List every strategy, or show one with an example.

    Kind, needs, parameters with defaults and what they may be, and where it comes from.
    """
    from mmselect.describe.report import as_data
    from mmselect.describe.strategies import describe_strategies, describe_strategy
    from mmselect.pool.reading import open_pool

    name, pools = _named(paths or [])
    with open_pool(pools) if pools else contextlib.nullcontext() as pool:
        if name is not None:
            reports, skipped = describe_strategy(name, pool)
        else:
            reports, skipped = describe_strategies(pool)
    notices(skipped, quiet)
    if form == "json":
        found = [as_data(report) for report in reports]
        show_json(found if name is None else found[0])
        return
    for report in reports:
        show(report.rows())


def _named(paths: list[str]) -> tuple[str | None, list[str]]:
    """Part the name of a strategy and the files of a pool; what is a file is no name."""
    first = paths[0] if paths else ""
    file = first not in PARAMETERS and (Path(first).exists() or first.endswith(".h5"))
    if file or not first:
        return None, paths
    return first, paths[1:]
