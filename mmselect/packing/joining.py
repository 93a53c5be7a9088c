"""Rows of several sources brought together: by their order, or by their ids."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Array, Index
from mmselect.engine import compute_rows, ranges
from mmselect.errors import SchemaError, located
from mmselect.files import read_at
from mmselect.packing.source import Files, Source, placed
from mmselect.pool.ids import Ids, as_stored, check_in_blocks
from mmselect.pool.parts import Part, Plain
from mmselect.pool.reading import Pool

IDS = 1 << 15
"""Ids that are read at a time."""

Hashes = NDArray[np.int64]

Names = list[bytes]
"""Ids as text, integers too: 7 and the text 7 are the same id."""


def ids_in(source: Source) -> Source:
    """Refuse a source that holds no ids; they are read in blocks, as they need not fit in memory.

    Raises
    ------
    SchemaError, DataError
        If it holds numbers with a point, or names that repeat or cannot be printed.
    """
    column = source.column
    with located(place=source.place, dataset=source.key or "/id"):
        if column.dtype.kind not in "OSUiu" or len(column.shape) != 1:
            found = f"{column.dtype} of shape {column.shape}"
            raise SchemaError(
                f"expected ids, text or integers, found {found}", file=str(source.path)
            )
        check_in_blocks(lambda: _stored(source))
    return source


def ids_of_pool(pool: Pool) -> Source | None:
    """Make a source of a pool's ids; None where it has none."""
    column = pool.columns.get("/id")
    return None if column is None else ids_in(Source(Path(pool.files[0]), "/id", column.parts))


def _stored(source: Source) -> Iterator[Array]:
    column = source.column
    return (as_stored(column.read(*each)) for each in ranges(0, len(column), IDS))


def names_in(source: Source) -> Iterator[Names]:
    """Ids of a source as text, block by block."""
    for block in _stored(source):
        items = block.tolist()
        yield items if block.dtype.kind == "O" else [str(item).encode() for item in items]


def some_names(source: Source, rows: Sequence[int]) -> list[str]:
    """Ids of a few rows, for people."""
    return Ids(as_stored(source.column.take(np.asarray(rows, np.intp)))).text(range(len(rows)))


@dataclass(frozen=True)
class Match:
    """Where each sample is found in a source.

    Attributes
    ----------
    rows : (n,) integer array
        Row of the source; -1 where it has none.
    others : int
        Rows of the source that no sample has.
    """

    rows: Index
    others: int

    @property
    def missing(self) -> Index:
        """Samples that the source does not have."""
        return np.flatnonzero(self.rows < 0)

    @property
    def same_order(self) -> bool:
        """Whether row i is sample i throughout."""
        return not self.others and bool((self.rows == np.arange(len(self.rows))).all())


def match(samples: Iterable[Names], n: int, found: Iterable[Names]) -> Match:
    """Find `n` samples among the ids of a source. In memory are 96 bits of hashes of each sample.

    Two names of a pool of 10^8 have all of them in common with odds of 10^-13.

    Examples
    --------
    >>> match([[b"x"], [b"7"]], 2, [[b"7", b"9"]])
    Match(rows=array([-1,  0]), others=1)
    """
    first, second = _all_digests(samples, n)
    order = np.argsort(first).astype(np.int32 if n < 1 << 31 else np.int64)
    first = _gathered(first, order)  # one after the other, so that one is in memory twice at a time
    second = _gathered(second, order)
    alike = first[1:] == first[:-1]  # names that only the other hash tells apart
    rows, others, start = np.full(len(order), -1), 0, 0
    for names in found if len(order) else ():
        ours, again = _digests(names)
        place = np.searchsorted(first, ours)
        hit = np.full(len(ours), -1)
        for _ in range(1 + int(alike.sum())):
            place = np.minimum(place, len(order) - 1)
            same = (first[place] == ours) & (second[place] == again)
            hit[same] = order[place[same]]
            place += 1
        there = np.flatnonzero(hit >= 0)
        rows[hit[there]] = there + start
        others, start = others + len(names) - len(there), start + len(names)
    return Match(rows, others)


def _gathered(values: NDArray[Any], order: NDArray[Any]) -> NDArray[Any]:
    """Take values in an order, by blocks: NumPy would make whole numbers of 8 bytes of all."""
    out = np.empty_like(values)
    for start, stop in ranges(0, len(order), IDS):
        out[start:stop] = values[order[start:stop]]
    return out


def _all_digests(samples: Iterable[Names], n: int) -> tuple[Hashes, NDArray[np.uint32]]:
    """Hashes of 64 and of 32 bits of each name in all blocks."""
    one, two, start = np.empty(n, np.int64), np.empty(n, np.uint32), 0
    for names in samples:
        stop = start + len(names)
        one[start:stop], two[start:stop] = _digests(names)
        start = stop
    return one, two


def _digests(names: Names) -> tuple[Hashes, NDArray[np.uint32]]:
    """Two hashes of each name; no name of a pool has a NUL in it."""
    again = [name + b"\0" for name in names]
    one, two = (np.fromiter(map(hash, each), np.int64, len(names)) for each in (names, again))
    return one, two.astype(np.uint32)


def first_difference(samples: Source, found: Source) -> int | None:
    """Find the first row at which ids differ; None where they do not."""
    start = 0
    for ours, theirs in zip_longest(names_in(samples), names_in(found), fillvalue=list[bytes]()):
        if ours != theirs:
            pairs = enumerate(zip_longest(ours, theirs))
            return start + next(row for row, (a, b) in pairs if a != b)
        start += len(ours)
    return None


def rows_of(names: Sequence[str], samples: Iterable[Names]) -> tuple[list[int], list[str]]:
    """Rows of the samples with these names, and the names that none has.

    Examples
    --------
    >>> rows_of(["b", "c"], [[b"a"], [b"b"]])
    ([1], ['c'])
    """
    wanted = {name.encode("utf-8", "surrogatepass") for name in names}
    rows, start = dict[bytes, int](), 0
    for block in samples:
        if not wanted.isdisjoint(block):
            rows |= {name: start + i for i, name in enumerate(block) if name in wanted}
        start += len(block)
    missing = [n for n in names if n.encode("utf-8", "surrogatepass") not in rows]
    return list(rows.values()), missing


@dataclass(frozen=True)
class TextPart(Part):
    """Texts one after the other in a file; `ends` says where each begins and ends."""

    texts: BinaryIO
    ends: NDArray[np.int64]

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`."""
        ends = self.ends[start : stop + 1]
        whole = read_at(self.texts.fileno(), int(ends[-1] - ends[0]), int(ends[0]))
        found = np.empty(stop - start, object)
        found[:] = [whole[a:b] for a, b in pairwise((ends - ends[0]).tolist())]
        return placed(found, out)


def spooled(source: Source, folder: Path, files: Files) -> Source:
    """Copy what is read in order only into a nameless file, so that any row can be read."""
    column = source.column
    step = min(16 * compute_rows(int(np.prod(column.shape[1:]))), IDS)
    blocks = (column.read(start, stop) for start, stop in ranges(0, len(column), step))
    where = (str(source.path), source.key, column.shape)
    spool = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed with the files
    file, part = files.enter_context(spool), Part(*where, column.dtype)
    if column.dtype.kind in "OSU":
        ends = np.zeros(len(column) + 1, np.int64)
        row = 1
        for texts in map(as_stored, blocks):
            file.write(b"".join(texts))
            np.cumsum([*map(len, texts)], out=ends[row : row + len(texts)])
            ends[row : row + len(texts)] += ends[row - 1]
            row += len(texts)
        part = TextPart(*where, np.dtype(object), file, ends)
    else:
        for block in blocks:
            file.write(np.ascontiguousarray(block, column.dtype).view(np.uint8).data)
        part = Plain(*where, column.dtype, ((file, 0, file.tell()),))
    return replace(source, parts=(part,), in_order=False, pieces=())
