"""In which format a result is written, and where to."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from mmselect.errors import UsageError, needing, printable, suggestion
from mmselect.files import replacing, writing
from mmselect.output import tables, tools
from mmselect.output.columns import beside, columns_along
from mmselect.output.tables import Fields, How
from mmselect.pool.reading import Pool
from mmselect.selection import Neighbours, Scores, Selection

Result = Scores | Selection

ALONE = How()


class Form(NamedTuple):
    """A format.

    Attributes
    ----------
    make : callable
        ``(result, pool, how) -> chunks of bytes``.
    endings : tuple of str
        Names of files that it may be written to end with one of them, if they have a known ending.
    binary : bool
        Whether no terminal can show it.
    takes : tuple of str
        What may go along: fields of :class:`How`.
    most : int
        Columns that it takes at most.
    package : str
        What has to be installed for it; the extra is called as the format.
    """

    make: Callable[[Any, Pool, How], Iterable[bytes]]
    endings: tuple[str, ...]
    binary: bool = False
    takes: tuple[str, ...] = ("columns",)
    most: int = sys.maxsize
    package: str = ""


def _table(
    fields: Callable[[Any], Fields], write: Callable[[Fields, Any], Iterable[bytes]]
) -> Callable[[Any, Pool, How], Iterable[bytes]]:
    """Make a format of a result's fields, with the columns beside them that were asked for."""

    def make(result: Any, pool: Pool, how: How) -> Iterable[bytes]:
        along = columns_along(pool, how.columns or (), result.indices)
        return write(beside(fields(result), along), result)

    return make


CSV, JSONL, JSON, NPY = (".csv",), (".jsonl", ".ndjson"), (".json",), (".npy",)
TEXT = ()  # no ending says it: any text may stand in a .txt

SCORE_FORMS: dict[str, Form] = {
    "csv": Form(_table(tables.score_fields, lambda f, _: tables.as_csv(f)), CSV),
    "jsonl": Form(_table(tables.score_fields, lambda f, _: tables.as_jsonl(f)), JSONL),
    "npy": Form(
        _table(tables.whole_fields, lambda f, _: tables.as_npy(tables.as_records(f))), NPY, True
    ),
    "h5": Form(
        _table(tables.whole_fields, lambda f, r: tables.as_h5(f, r.provenance)),
        (".h5", ".hdf5"),
        True,
    ),
    "parquet": Form(
        _table(tables.whole_fields, lambda f, r: tables.as_parquet(f, r.provenance)),
        (".parquet",),
        True,
        package="pyarrow",
    ),
}

SELECT_FORMS: dict[str, Form] = {
    "ids": Form(lambda result, *_: tables.as_lines(result.ids), TEXT, takes=()),
    "indices": Form(lambda result, *_: tables.as_lines(result.indices.tolist()), TEXT, takes=()),
    "csv": Form(_table(tables.pick_fields, lambda f, _: tables.as_csv(f)), CSV),
    "jsonl": Form(_table(tables.pick_fields, lambda f, _: tables.as_jsonl(f)), JSONL),
    "json": Form(_table(tables.pick_fields, lambda f, r: tables.picks_json(f, r.provenance)), JSON),
    "label-studio": Form(tools.label_studio, JSON, takes=("columns", "predict")),
    "cvat": Form(tools.cvat, TEXT, most=1),
    "fiftyone": Form(tools.fiftyone, JSON),
    "prodigy": Form(tools.prodigy, JSONL),
    "argilla": Form(tools.argilla, JSONL),
    "npy": Form(lambda result, *_: tables.as_npy(result.indices), NPY, True, takes=()),
}

REPORT_ENDINGS = {"text": TEXT, "csv": CSV, "json": JSON}
"""Of formats in which a report is written."""


def endings(forms: Mapping[str, Form]) -> dict[str, tuple[str, ...]]:
    """List the endings of names of files, by format."""
    return {name: form.endings for name, form in forms.items()}


KNOWN = {e for forms in (SCORE_FORMS, SELECT_FORMS) for es in endings(forms).values() for e in es}


OTHERS = {".feather", ".arrow", ".pkl", ".pt", ".npz", ".safetensors", ".tsv", ".xls", ".xlsx"}
"""Endings that say a format which nothing here writes; with `--format` a user may give them."""


def decide(known: Mapping[str, tuple[str, ...]], said: str | None, target: Path | None) -> str:
    """Find the format: the one that was said, else that of the target's ending, else the first.

    Raises
    ------
    UsageError
        If the format is unknown, or the target's name says another.

    Examples
    --------
    >>> forms = {"ids": (), "csv": (".csv",), "json": (".json",)}
    >>> decide(forms, None, Path("a.csv")), decide(forms, None, None), decide(forms, "csv", None)
    ('csv', 'ids', 'csv')
    >>> decide(forms, "json", Path("a.csv"))
    Traceback (most recent call last):
    mmselect.errors.UsageError: format: expected a name that ends with .json for json, found 'a.csv'
    """
    ending = target.suffix.lower() if target else ""
    if said is not None and said not in known:
        expected = f"format: expected one of {', '.join(known)}"
        raise UsageError(f"{expected}, found {said!r}{suggestion(said, known)}")
    if ending not in KNOWN and (said or ending not in OTHERS):
        return said or next(iter(known))
    able = [said] if said else list(known)
    fitting = [name for name in able if ending in known[name]]
    if fitting:
        return fitting[0]
    ends = " or ".join(dict.fromkeys(e for name in able for e in known[name])) or "no other format"
    expected = f"format: expected a name that ends with {ends}{f' for {said}' if said else ''}"
    raise UsageError(f"{expected}, found {str(target)!r}")


def check_form(
    forms: Mapping[str, Form], name: str, how: How, target: Path | None, pool: Pool
) -> None:
    """Refuse what this format cannot hold, before any work is done.

    Raises
    ------
    UsageError
        If it is binary and would go to a terminal, or takes no columns or predictions.
    NeedsError
        If a package that it takes is not installed, or the pool has no fused head to predict with.
    SelectionError
        If the pool does not have a column that was asked for.
    """
    form = forms[name]
    if target is None and form.binary and sys.stdout.isatty():
        raise UsageError(f"format: {name} is binary; give a file with -o, or a pipe")
    for what in ("columns", "predict"):
        if getattr(how, what) is not None and what not in form.takes:
            able = ", ".join(n for n, f in forms.items() if what in f.takes) or "another command"
            raise UsageError(f"{what}: expected a format of {able}, found {name}")
    if len(how.columns or ()) > form.most:
        raise UsageError(f"columns: {name} takes one, found {', '.join(how.columns or ())}")
    if form.package:
        with needing(f"format {name}", form.package, name):
            import_module(form.package)
    for column in how.columns or ():
        pool.metadata(column, "columns")
    if how.predict:
        tools.check_predictable(pool)


def write(
    result: Result,
    form: str,
    target: Path | None,
    pool: Pool,
    how: How = ALONE,
) -> None:
    """Write a result in one of :data:`SCORE_FORMS` or :data:`SELECT_FORMS`.

    Parameters
    ----------
    target : path, optional
        None is standard output.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left under the target's name then.
    UsageError
        If the format is unknown, or needs a file.
    """
    forms = SCORE_FORMS if isinstance(result, Scores) else SELECT_FORMS
    name = decide(endings(forms), form, target)
    check_form(forms, name, how, target, pool)
    emit(forms[name].make(result, pool, how), target)


def deliver(
    result: Selection, form: str, targets: Sequence[Path | None], pool: Pool, how: How
) -> None:
    """Write picks to their target, or deal them to several in turn, as one deals cards.

    All files are written before the first one takes its place.

    Raises
    ------
    OutputError
        If one cannot be written; none of the targets is changed then.
    """
    if len(targets) == 1:
        write(result, form, targets[0], pool, how)
        return
    check_parts(len(targets), len(result.ids))
    with contextlib.ExitStack() as stack:
        for i, target in enumerate(filter(None, targets)):
            file = stack.enter_context(replacing(target))
            file.writelines(SELECT_FORMS[form].make(deal(result, i, len(targets)), pool, how))
            file.flush()


def check_parts(parts: int, k: int) -> None:
    """Refuse to deal fewer picks than there are parts."""
    if parts > max(k, 1):
        raise UsageError(f"split: expected at most {k:,} parts for {k:,} picks, found {parts:,}")


def deal(result: Selection, part: int, parts: int) -> Selection:
    """Every picks' `parts`-th, from number `part` on; its provenance says so."""
    return replace(
        result,
        ids=result.ids[part::parts],
        indices=result.indices[part::parts],
        scores=result.scores[part::parts],
        costs=None if result.costs is None else result.costs[part::parts],
        provenance={**result.provenance, "split": {"part": part + 1, "parts": parts}},
    )


def emit(chunks: Iterable[bytes], target: Path | None) -> None:
    """Write to a file, which appears when it is whole, or to standard output.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left under the target's name then.
    """
    if target is None:
        to_stdout(chunks)
        return
    with replacing(target) as file:
        file.writelines(chunks)


def write_neighbours(found: Neighbours, target: Path) -> None:
    """Write which pick stands for each candidate, as CSV.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left under the target's name then.
    """
    fields: tables.Fields = {"id": found.ids, "nearest": found.nearest, "distance": found.distance}
    emit(tables.as_csv(fields), target)


def to_stdout(chunks: Iterable[bytes], safe: bool = False) -> None:
    """Write to standard output; when its reader has gone (``| head``), stop quietly.

    A file or a pipe gets every byte as it is; on a terminal what it would obey is written out,
    unless the chunks are `safe`: laid out already, in colours of our own.

    Raises
    ------
    OutputError
        If standard output cannot be written for another reason.
    """
    with writing("standard output"):
        try:
            shown = map(_harmless, chunks) if sys.stdout.isatty() and not safe else chunks
            sys.stdout.buffer.writelines(shown)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # give Python's own flush at exit something that takes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _harmless(chunk: bytes) -> bytes:
    r"""Write out what a terminal would obey in some lines, tabs and line breaks apart.

    Examples
    --------
    >>> _harmless(b"a\tb\n\x1b[31m")
    b'a\tb\n\\x1b[31m'
    """
    parts = re.split(r"([\n\t])", chunk.decode("utf-8", "surrogateescape"))
    return "".join(part if part in ("\n", "\t") else printable(part) for part in parts).encode()
