"""The names of the samples: looked up by name, printed by row.

Names stay as they are stored (bytes or integers); only what is printed is decoded. Look-ups sort
64-bit hashes and then compare the names themselves, so that ten million ids need no dictionary.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""Control characters of ASCII and Latin-1; Unicode's line separators and changes of direction."""

UNPRINTABLE = "expected printable UTF-8 text of one line, not empty, found {}"
REPEATED = "expected unique ids, found {} again"


@dataclass(frozen=True)
class Ids:
    """The ids of a pool, in row order.

    Attributes
    ----------
    values : (n,) array of bytes objects or integers
        As stored; integers read as text without leading zeros or a plus sign.

    Examples
    --------
    >>> import numpy as np
    >>> ids = Ids(np.array([b"cat", b"dog"], dtype=object))
    >>> ids.text([1]), ids.find(["dog", "emu"])
    (['dog'], (array([1]), ['emu']))
    """

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def text(self, rows: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """Names of `rows`, as text.

        Raises
        ------
        DataError
            For a name that is not UTF-8.
        """
        found = self.values[np.asarray(rows, np.intp)]
        if found.dtype.kind in "iu":
            return [str(number) for number in found.tolist()]
        try:
            return [name.decode() for name in found]
        except UnicodeDecodeError:
            bad = [int(row) for row, name in zip(rows, found, strict=True) if not _is_utf8(name)]
            raise DataError("expected UTF-8 text", dataset="/id", rows=bad) from None

    def find(self, names: Sequence[str]) -> tuple[NDArray[np.intp], list[str]]:
        """Rows of `names`, and the names that no row has; both in the order of `names`."""
        wanted = [self._stored(name) for name in names]
        hashes, _ = self._sorted_hashes
        places = np.searchsorted(hashes, np.array([hash(w) for w in wanted], np.int64))
        rows, missing = [], []
        for name, want, place in zip(names, wanted, places.tolist(), strict=True):
            row = self._row_at(want, place)
            if row is None:
                missing.append(name)
            else:
                rows.append(row)
        return np.array(rows, np.intp), missing

    def near(self, names: Sequence[str]) -> dict[str, str]:
        """Of names that no row has: ids that differ by blanks around them or Unicode form alone.

        Examples
        --------
        >>> Ids(np.array([b"cat", b"dog"], dtype=object)).near([" dog", "emu"])
        {' dog': 'dog'}
        """
        wanted, found = {_plain_form(name): name for name in names}, {}
        for value in self.values.tolist():
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            if (name := wanted.get(_plain_form(text))) is not None:
                found[name] = text
        return {name: found[name] for name in names if name in found}

    def duplicates(self) -> list[int]:
        """Rows whose name an earlier row has, in row order."""
        if self.values.dtype.kind in "iu" and (self.values[1:] > self.values[:-1]).all():
            return []  # row numbers, mostly
        hashes, order = self._sorted_hashes
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        if len(same) == 0:
            return []
        suspects = np.unique(np.concatenate([order[same], order[same + 1]]))
        seen: set[Any] = set()
        repeated = []
        for row in suspects.tolist():
            if self.values[row] in seen:
                repeated.append(row)
            seen.add(self.values[row])
        return repeated

    def unprintable(self) -> list[int]:
        """Rows whose name is empty, not UTF-8, or holds a control character or a line break."""
        if self.values.dtype.kind in "iu":
            return []
        whole = b" ".join(self.values)
        if _is_utf8(whole) and not _CONTROL.search(whole) and all(self.values):
            return []
        return [
            row
            for row, name in enumerate(self.values)
            if not name or not _is_utf8(name) or _CONTROL.search(name)
        ]

    def faults(self) -> dict[str, list[int]]:
        """Rows whose name cannot be used, by what is wrong; ``{}`` in that stands for the name."""
        found = {UNPRINTABLE: self.unprintable(), REPEATED: self.duplicates()}
        return {what: rows for what, rows in found.items() if rows}

    def shown(self, row: int) -> str:
        """Name of a row for an error, be it printable or not."""
        name = self.values[row]
        return repr(name.decode("utf-8", "replace")) if isinstance(name, bytes) else str(name)

    @cached_property
    def _sorted_hashes(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        hashes = hashes_of(self.values)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _stored(self, name: str) -> Any:
        """Turn a name given as text into what is stored; None for text that names no integer."""
        if self.values.dtype.kind not in "iu":
            return name.encode("utf-8", "surrogatepass")  # no id of a pool holds a lone surrogate
        digits = name.removeprefix("-")
        return int(name) if digits.isdecimal() and str(int(name)) == name else None

    def _row_at(self, want: Any, place: int) -> int | None:
        hashes, order = self._sorted_hashes
        while want is not None and place < len(hashes) and hashes[place] == hash(want):
            if self.values[order[place]] == want:
                return int(order[place])
            place += 1
        return None


def check_ids(ids: Ids) -> None:
    """Refuse ids that a line of text cannot carry, or that repeat.

    Raises
    ------
    DataError
        Naming the rows.
    """
    for what, rows in ids.faults().items():
        raise DataError(what.format(ids.shown(rows[0])), dataset="/id", rows=rows)


def check_in_blocks(blocks: Callable[[], Iterator[NDArray[Any]]]) -> None:
    """Refuse the same in ids that are read in blocks, of which only hashes are kept.

    Where two hashes are equal, the blocks are read again, and names compared.

    Parameters
    ----------
    blocks : callable
        Starts to read from the first id on.

    Raises
    ------
    DataError
        Naming the rows.

    Examples
    --------
    >>> check_in_blocks(lambda: iter([np.array([3, 7]), np.array([7])]))
    Traceback (most recent call last):
    mmselect.errors.DataError: /id: row 2: expected unique ids, found 7 again
    """
    hashes, start = [np.empty(0, np.int64)], 0
    for block in map(as_stored, blocks()):
        if rows := Ids(block).unprintable():
            what = UNPRINTABLE.format(Ids(block).shown(rows[0]))
            raise DataError(what, dataset="/id", rows=[start + row for row in rows])
        hashes.append(hashes_of(block))
        start += len(block)
    every = np.concatenate(hashes)
    del hashes
    every.sort()
    suspects = np.unique(every[1:][every[1:] == every[:-1]])
    if suspects.size:
        _check_suspects(map(as_stored, blocks()), suspects)


def _check_suspects(blocks: Iterable[NDArray[Any]], suspects: NDArray[np.int64]) -> None:
    """Refuse names that repeat, which are among those with the hashes of `suspects`."""
    seen, repeated, start, first = set[Any](), list[int](), 0, ""
    for block in blocks:
        for row in np.flatnonzero(np.isin(hashes_of(block), suspects)).tolist():
            if block[row] in seen:
                first = first or Ids(block).shown(row)
                repeated.append(start + row)
            seen.add(block[row])
        start += len(block)
    if repeated:
        raise DataError(REPEATED.format(first), dataset="/id", rows=repeated)


def hashes_of(values: NDArray[Any]) -> NDArray[np.int64]:
    """64-bit hashes of names as they are stored; they hold for this process only."""
    items = values.tolist() if values.dtype.kind in "iu" else values
    return np.fromiter(map(hash, items), np.int64, len(values))


def as_stored(values: NDArray[Any], dataset: str | None = None) -> NDArray[Any]:
    r"""Names or text as bytes objects (UTF-8), or native integers; missing text is empty text.

    Raises
    ------
    DataError
        For what is neither text nor an integer, and for text that UTF-8 or a string of HDF5 cannot
        hold.

    Examples
    --------
    >>> as_stored(np.array(["é", None, b"x", float("nan"), 7], dtype=object)).tolist()
    [b'\xc3\xa9', b'', b'x', b'', b'7']
    """
    if values.dtype.kind in "iu":
        return values.astype(values.dtype.newbyteorder("="))
    out, items = np.empty(len(values), object), values.tolist()
    if set(map(type, items)) == {bytes}:
        out[:] = items
        return out
    for row, item in enumerate(items):
        try:
            out[row] = _as_bytes(item)
        except (TypeError, ValueError):
            message = f"expected text, found {item!r:.60}"
            raise DataError(message, dataset=dataset, rows=[row]) from None
    return out


def as_text(values: NDArray[Any], dataset: str) -> NDArray[Any]:
    """Text as the bytes objects that HDF5 is to hold.

    Raises
    ------
    DataError
        For what :func:`as_stored` refuses, and for NUL, at which HDF5 would end.
    """
    stored = as_stored(values, dataset)
    if bad := [row for row, text in enumerate(stored) if b"\0" in text]:
        raise DataError("expected text without NUL", dataset=dataset, rows=bad)
    return stored


def _as_bytes(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if item is None or type(item).__name__ in ("NAType", "NaTType") or item != item:
        return b""
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item).encode()
    raise TypeError


def _plain_form(name: str) -> str:
    """Return a name without blanks around it, in one Unicode form."""
    return unicodedata.normalize("NFC", name.strip())


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
