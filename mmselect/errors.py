"""Everything that can go wrong on purpose, in one tree.

::

    MmselectError                 exit code 1
    ├── PoolError                 a pool file cannot be used
    │   ├── FormatError           not a pool, truncated, or of another major version
    │   ├── SchemaError           a dataset has the wrong name, shape or type
    │   └── DataError             a value that no strategy can use (nan, +inf, a duplicate id)
    ├── NeedsError                the pool lacks what the strategy needs
    ├── SelectionError            the request does not fit the pool (unknown ids)
    ├── InputError                a list of ids could not be read
    ├── OutputError               the result could not be written
    ├── EngineError               who should do the work is not there, or was lost
    ├── TrainingError             a command that trains failed, or wrote no usable pool
    └── UsageError                exit code 2: an argument that is wrong whatever the pool
        ├── ParameterError        a strategy's parameter
        └── BudgetError           a budget that is not a count or a share

An error says *where* (file, dataset, rows), what was *expected* and what was *found*. The function
that notices only knows its array; whoever holds the file adds the rest with :func:`located`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Protocol, SupportsInt

MOST_NAMED = 5
"""How many rows or ids an error names before it says how many more there are."""

LONGEST_NAME = 60
"""Characters of an unknown name that are compared with the known ones."""


class MmselectError(Exception):
    """Base of all errors that mmselect raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong: expected and found, without the place.
    file, dataset : str, optional
        Where it is.
    rows : sequence of int, optional
        Row numbers, on the sample axis, at which it was found.

    Examples
    --------
    >>> print(MmselectError("expected a number, found nan", file="a.h5", dataset="/x", rows=[3]))
    a.h5: /x: row 3: expected a number, found nan
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        dataset: str | None = None,
        rows: list[int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.dataset = dataset
        self.rows = rows

    def __str__(self) -> str:
        rows = None if self.rows is None else f"row{'s'[: len(self.rows) != 1]} {few(self.rows)}"
        where = (self.file, self.dataset, rows, self.message)
        return printable(": ".join(part for part in where if part))


class PoolError(MmselectError):
    """A pool file cannot be used."""


class FormatError(PoolError):
    """The file is not a pool, is truncated, or has another major version."""


class SchemaError(PoolError):
    """A dataset has the wrong name, shape or type."""


class DataError(PoolError, ValueError):
    """A value that no strategy can use: nan, +inf, a row of all -inf, a duplicate id."""


class NeedsError(MmselectError):
    """The pool lacks a dataset that the strategy needs."""


class SelectionError(MmselectError):
    """The request does not fit the pool: unknown ids, or a budget above the candidates."""


class InputError(MmselectError):
    """A list of ids could not be read."""


class OutputError(MmselectError):
    """The result could not be written."""


class EngineError(MmselectError):
    """Who should do the work is not there, or was lost."""


class TrainingError(MmselectError):
    """A command that trains failed, or wrote no pool that can be used."""


class UsageError(MmselectError, ValueError):
    """An argument that is wrong whatever the pool."""

    exit_code = 2


class ParameterError(UsageError):
    """A strategy's parameter is unknown or out of range."""


class BudgetError(UsageError):
    """A budget that is neither a positive count nor a share in (0 %, 100 %]."""


class RowNumbers(Protocol):
    """A sequence or an array of row numbers."""

    def __getitem__(self, row: int, /) -> SupportsInt: ...


@contextlib.contextmanager
def located(
    *,
    file: str | None = None,
    dataset: str | None = None,
    rows: RowNumbers | None = None,
    place: Callable[[list[int]], tuple[str, list[int]]] | None = None,
) -> Iterator[None]:
    """Fill in where an error happened, once, at the edge that knows it.

    What the error already says stays. Its row r is renamed to ``rows[r]``. Where no file is known
    yet, `place` tells which one holds those rows, and which of the file's own rows they are;
    failing that it is `file`.

    Examples
    --------
    >>> with located(file="pool.h5", dataset="/features/image", rows=range(100, 200)):
    ...     raise DataError("found nan", rows=[2])
    Traceback (most recent call last):
    mmselect.errors.DataError: pool.h5: /features/image: row 102: found nan
    """
    try:
        yield
    except MmselectError as error:
        error.dataset = error.dataset or dataset
        if error.rows is not None and rows is not None:
            error.rows = [int(rows[row]) for row in error.rows]
        if error.rows and place is not None and error.file is None:
            error.file, error.rows = place(error.rows)
        error.file = error.file or file
        raise


def printable(text: str, form: str | None = None) -> str:
    r"""Write out what a terminal would obey: control characters, line breaks, changes of direction.

    As Python writes it, or in a `form` of the character's number.

    Examples
    --------
    >>> print(printable("\x1b[31mred\n"))
    \x1b[31mred\n
    """

    def written(found: re.Match[str]) -> str:
        return form.format(ord(found[0])) if form else ascii(found[0])[1:-1]

    return _OBEYED.sub(written, text)


_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def missing_extra(what: str, package: str, extra: str = "") -> str:
    """Say how to install a package that not everybody needs.

    Examples
    --------
    >>> missing_extra("align", "torch", "torch")
    "align needs torch; install it with: pip install 'mmselect[torch]'"
    """
    name = f"'mmselect[{extra}]'" if extra else package
    return f"{what} needs {package}; install it with: pip install {name}"


def few(things: list[int] | list[str], total: int | None = None) -> str:
    """Name the first few of many.

    Examples
    --------
    >>> few([1, 2, 3])
    '1, 2, 3'
    >>> few(list(range(9)))
    '0, 1, 2, 3, 4 and 4 more'
    """
    total = len(things) if total is None else total
    named = ", ".join(str(thing) for thing in things[:MOST_NAMED])
    more = total - min(len(things), MOST_NAMED)
    return f"{named} and {more:,} more" if more else named


@contextlib.contextmanager
def needing(what: str, package: str, extra: str = "") -> Iterator[None]:
    """Say how to install a package that an import in the block lacks, before any work is done.

    Raises
    ------
    NeedsError
        Naming the extra, or the package where none has it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        message = missing_extra(what, package, extra)
        raise NeedsError(message) from None


def suggestion(found: object, known: Iterable[str]) -> str:
    """Name the known name that a wrong one is most like; nothing where none is like it.

    Examples
    --------
    >>> suggestion("Entrpoy", ["margin", "entropy"]), suggestion("x", ["margin", "entropy"])
    ("; did you mean 'entropy'?", '')
    """
    names = {name.lower(): name for name in known}
    near = get_close_matches(str(found)[:LONGEST_NAME].lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def unexpected(name: str, known: Iterable[str], function: str = "") -> TypeError:
    """Say that there is no such keyword, as Python does, and which one was perhaps meant.

    Examples
    --------
    >>> unexpected("joni", ["ids", "join"], "pack")
    TypeError("pack: unexpected keyword argument 'joni'; did you mean 'join'?")
    """
    where = f"{function}: " if function else ""
    return TypeError(f"{where}unexpected keyword argument {name!r}{suggestion(name, known)}")
