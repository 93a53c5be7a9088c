"""Lists of ids as people have them: lines, tables, JSON, exports of labeling tools.

What a file is, is decided once the pool is known. If its first line is an id of the pool, every
line is an id, commas and all. Else what starts with a bracket is JSON or JSON lines, and what has
the field ``id`` in its first line, or the extension of a table, is a table. Else lines are ids.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mmselect.errors import InputError, few
from mmselect.files import reason

HEADER = re.compile(r"(.*[,;\t])?\"?ids?\"?([,;\t].*)?", re.IGNORECASE)
"""A line with a field that other programs call ID, Id or ids."""

LISTS = ("labeled", "exclude", "among")
"""Kinds of lists that a selection may be given."""

DOCUMENTS: dict[str, tuple[str, ...]] = {
    "picks": (),  # mmselect
    "ids": (),  # what it writes for FiftyOne
    "samples": ("mmselect_id",),  # FiftyOne's own export
    "images": ("file_name",),  # COCO, from CVAT and others
    "items": ("id",),  # Datumaro, from CVAT and others
}
"""Lists in one JSON document, and what has the id in an entry where it is not called so."""

FILES = ("images", "items")
"""Those whose ids are names of files: with their ending, or without it."""

INNER = ("data", "meta")
"""What holds the id in tasks of Label Studio, always, and of Prodigy."""

TYPED = 1 << 20
"""Bytes that a list from a terminal may have."""

TABLES, JSONS = (".csv", ".tsv"), (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class ListFile:
    """A list that was read but not yet understood: that takes the pool.

    Attributes
    ----------
    source : str
        Path; ``-`` is standard input.
    text : str
        What it holds.
    """

    source: str
    text: str = field(repr=False)

    def ids(self, known: Callable[[str], bool]) -> list[str]:
        r"""Ids in the file's order; `known` tells whether the pool has an id.

        Raises
        ------
        InputError
            Naming the line or entry that has no id.

        Examples
        --------
        >>> ListFile("picks.csv", "rank,id\n1,cat\n2,dog\n").ids({"cat", "dog"}.__contains__)
        ['cat', 'dog']
        """
        lines = [row.removesuffix("\r") for row in self.text.split("\n")]
        lines = [line for line in lines if line]
        suffix = Path(self.source).suffix.lower()
        if not lines or known(lines[0]):
            return lines
        try:
            if suffix in JSONS or self.text.lstrip()[:1] in ("[", "{"):
                return [_id_of(entry, where) for where, entry in _entries(self.text, known)]
            for delimiter in (",", ";", "\t"):
                if _cells(lines[0], delimiter).count("id") == 1:
                    return list(_column(self.text, delimiter))
            if suffix in TABLES:
                raise InputError(f"expected a column id, found the columns {lines[0]:.60}")
        except InputError as error:
            error.file = self.source
            raise
        return lines


def read_list(source: str) -> ListFile:
    """Read a list from a file or (``-``) from standard input, in UTF-8 or UTF-16 with its mark.

    Raises
    ------
    InputError
        If the file cannot be read, or is no text.
    """
    try:
        raw = sys.stdin.buffer.read() if source == "-" else _bytes_of(source)
    except OSError as error:
        raise InputError(f"cannot be read: {reason(error)}", file=source) from None
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        place, found = error.start, raw[error.start]
    else:
        if "\0" not in text:
            return ListFile(source, text)
        place, found = text.index("\0"), 0
    expected = "expected text in UTF-8, or in UTF-16 with a byte order mark"
    raise InputError(f"{expected}, found byte 0x{found:02x} at {place:,}", file=source)


def _bytes_of(source: str) -> bytes:
    """All bytes of a file; of a device no more than a person types, as it may have no end."""
    with Path(source).open("rb") as file:
        device = stat.S_ISCHR(os.fstat(file.fileno()).st_mode)
        raw = file.read(TYPED + 1 if device else -1)
    if device and len(raw) > TYPED:
        raise InputError("expected a list, found a device without an end", file=source)
    return raw


def by_source(
    given: Sequence[str | ListFile], known: Callable[[str], bool]
) -> Iterator[tuple[str | None, list[str]]]:
    """Ids of each file, with its name; those that were given as ids have none."""
    files = [each for each in given if isinstance(each, ListFile)]
    plain = [each for each in given if isinstance(each, str)]
    if plain or not files:
        yield None, plain
    for file in files:
        yield file.source, file.ids(known)


def digest(names: Sequence[str]) -> str:
    """Digest of a set of ids, in whatever order and format they came."""
    import hashlib  # it loads OpenSSL

    text = "\n".join(sorted({*names}))
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def unknown(
    source: str | None, names: Sequence[str], missing: Sequence[str], near: Mapping[str, str]
) -> str:
    """Name ids that the pool does not have, and the likely cause; `near` has what it has instead.

    Examples
    --------
    >>> unknown("a.txt", ["cat ", "dog"], ["cat "], {"cat ": "cat"})
    "1 unknown in a.txt: cat ; 'cat ' differs from the pool's 'cat' only by blanks around it"
    """
    said = f"{len(missing):,} unknown{f' in {source}' if source else ''}: {few(list(missing))}"
    if near:
        name, stored = next(iter(near.items()))
        blanks = name.strip() != name or stored.strip() != stored
        form = name.strip() != stored.strip()
        how = ["blanks around it"] * blanks + ["its Unicode form (NFC or NFD)"] * form
        said += f"; {name!r} differs from the pool's {stored!r} only by {' and '.join(how)}"
    first = bool(source and not near and names[0] == missing[0] and len(names) > 1)
    if first and (len(missing) == 1 or HEADER.fullmatch(names[0])):
        said += (
            f"; the first line {names[0][:60]!r} looks like a header; a column of ids is called id"
        )
    return said


def _entries(text: str, known: Callable[[str], bool]) -> list[tuple[str, Any]]:
    """Entries of JSON, or of JSON lines, each with its place."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise InputError(f"expected JSON: {error}") from None
        return [
            (f"line {number}", _json_line(line, number))
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    if isinstance(whole, dict):
        inside = (name for name in DOCUMENTS if isinstance(whole.get(name), list))
        name = next(inside, None)
        whole = [whole] if name is None else _inside(whole[name], name, known)
    if not isinstance(whole, list):
        raise InputError(f"expected a list in JSON, found {json.dumps(whole):.60}")
    return [(f"entry {number}", entry) for number, entry in enumerate(whole, start=1)]


def _inside(entries: list[Any], name: str, known: Callable[[str], bool]) -> list[Any]:
    """Take from the entries of a document what is their id; of files the name that is known."""
    found = entries
    for place in DOCUMENTS[name]:
        found = [{"id": e.get(place)} if isinstance(e, dict) else e for e in entries]
    for entry in found if name in FILES else ():
        file = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(file, str) and file and not known(file):
            stem = str(PurePosixPath(file).with_suffix(""))
            entry["id"] = stem if known(stem) else file
    return found


def _json_line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"line {number}: expected JSON, found {line:.60}") from None


def _id_of(entry: Any, where: str) -> str:
    """Find the id of an entry: in ``data`` or ``meta`` where tasks of labeling tools have it."""
    found, name = entry, "id"
    if isinstance(entry, dict):
        inner = next((name for name in INNER if isinstance(entry.get(name), dict)), None)
        if inner == "data" or (inner and "id" not in entry):
            found, name = entry[inner].get("id"), f"{inner}.id"
        else:
            _refuse_short_export(entry)
            found = entry.get("id")
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise InputError(f"{where}: expected an id in {name}, found {json.dumps(found):.60}")
    return str(found)


def _refuse_short_export(fields: Any) -> None:
    """Refuse Label Studio's CSV and JSON_MIN, where its own numbers replace the ids."""
    if "annotation_id" in fields:
        message = "whose id is Label Studio's task number; export as JSON, which keeps data.id"
        raise InputError(f"expected ids of samples, found a short export {message}")


def _cells(line: str, delimiter: str) -> list[str]:
    """Cells of one line; none where its quotes do not match."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _column(text: str, delimiter: str) -> Iterator[str]:
    """Read the column ``id`` of a table."""
    table = csv.reader(
        io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True
    )
    try:
        header = next(table)
        _refuse_short_export(header)
        place = header.index("id")
        for row in table:
            if row and len(row) != len(header):
                found = f"expected {len(header)} fields, found {len(row)}"
                raise InputError(f"line {table.line_num}: {found}")
            if row and not row[place]:
                raise InputError(f"line {table.line_num}: expected an id, found none")
            if row:
                yield row[place]
    except csv.Error as error:
        raise InputError(f"line {table.line_num}: expected a table: {error}") from None
