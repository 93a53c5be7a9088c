"""What every command does around its work: the pool it opens, where it writes, how it prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmselect.errors import UsageError
from mmselect.option import names
from mmselect.progress import Progress, phase
from mmselect.terminal import bar, notices, page

if TYPE_CHECKING:
    from mmselect.ask import Ask
    from mmselect.output.tables import How
    from mmselect.pool.reading import Pool
    from mmselect.request import Request

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def how_to(columns: str | None, predict: str | None = None) -> How:
    """Read what goes along with a result."""
    from mmselect.output.tables import How

    along = None if columns is None else names("columns", columns)
    if predict is None:
        return How(along)
    control, colon, shown = predict.partition(":")
    if not control or not colon or not shown:
        raise UsageError(f"predict: expected FROM:TO, found {predict!r}")
    return How(along, (control, shown))


def target_of(output: str | None) -> Path | None:
    """Where to write; None for standard output, by any of its names."""
    return None if output is None or output in STDOUT else Path(output)


def parts_of(output: str | None, split: int | None) -> list[Path | None]:
    """Where to write: one target, or as many as the picks are dealt to."""
    if split is None:
        return [target_of(output)]
    if split < 1:
        raise UsageError(f"split: expected a whole number of at least 1, found {split}")
    if output is None or output.count("{}") != 1:
        expected = "{} once in -o, where the number of each file goes"
        raise UsageError(f"split: expected {expected}, found {repr(output) if output else 'no -o'}")
    return [Path(output.replace("{}", str(part + 1))) for part in range(split)]


def targets(*outputs: str | None) -> list[Path]:
    """Files among the outputs."""
    return [target for target in map(target_of, outputs) if target is not None]


def file_target(output: str) -> Path:
    """Where to write HDF5, which standard output does not take."""
    if (target := target_of(output)) is None:
        raise UsageError("output: expected a file, since HDF5 is not written to standard output")
    return target


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    from mmselect.output.emitting import to_stdout
    from mmselect.output.tables import as_json

    to_stdout([f"{as_json(value, indent=1)}\n".encode()])


def show_report(report: Any, form: str | None) -> None:
    """Print a report as tables for people, or its fields as JSON."""
    from mmselect.describe.report import as_data

    show_json(as_data(report)) if form == "json" else show(report.rows())


def show(tables: Iterable[Sequence[tuple[Any, ...]]]) -> None:
    """Print tables, laid out for the terminal at hand, or for a pipe."""
    from mmselect.output.emitting import to_stdout
    from mmselect.output.layout import aligned

    width, paint = page()
    for table in tables:
        to_stdout(aligned(table, width, paint), safe=True)


@contextlib.contextmanager
def prepared(
    pools: list[str], ask: Ask, quiet: bool, scores_only: bool = False
) -> Iterator[Request]:
    """Open a pool and decide what will be done with it; people are told how far it is."""
    from mmselect.request import prepare

    with progress_bar(quiet) as progress, opened(pools, progress) as pool:
        yield prepare(pool, ask, scores_only, progress)


@contextlib.contextmanager
def opened(pools: list[str], progress: Progress | None) -> Iterator[Pool]:
    """Open a pool; the ids of a large one take a while."""
    from mmselect.pool.reading import open_pool

    with phase(progress, "opening the pool"):
        pool = open_pool(pools)
    with pool:
        yield pool


@contextlib.contextmanager
def told(request: Request, quiet: bool) -> Iterator[None]:
    """Print what the request warns of: what is known now, and then what the work found."""
    known = len(request.warnings)
    notices(request.warnings, quiet)
    yield
    notices([*request.warnings[known:], *request.notices], quiet)


def progress_bar(quiet: bool, text: str = "working") -> contextlib.AbstractContextManager[Any]:
    """Yield a progress report: bars on a terminal, a line a minute elsewhere."""
    return bar(text, hidden=quiet)
