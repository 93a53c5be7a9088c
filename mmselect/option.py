"""What an option is, and the parsers that the command line and the Python functions share.

A parser takes the option's name and what was said for it, as text or as a value of Python, and
returns the value or raises a `UsageError`. :mod:`mmselect.ask` lists the options.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, dataclass_transform

from mmselect.errors import BudgetError, UsageError, suggestion
from mmselect.lists import ListFile

LARGEST = 2**63 - 1
"""The largest whole number that an option takes."""

LONGEST = 60
"""Characters of a refused value that an error repeats."""

CONDITION = "COLUMN=VALUE, or one of != < <= > >= in place of ="
BUDGET = "a count of at least 1, or a share above 0% and up to 100%"

Parser = Callable[[str, Any], Any]
"""Turns what was said for an option of this name, as text or in Python, into its value."""


class Condition(NamedTuple):
    """One ``--where``: a metadata column, an operator, and the text it is compared with."""

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        cut = "…" if len(self.value) > LONGEST else ""
        return f"where {self.column}{self.operator}{self.value[:LONGEST]}{cut}"


def refuse(name: str, expected: str, found: Any, near: str = "") -> UsageError:
    """Say what an option takes, and what was given instead."""
    return UsageError(f"{name}: expected {expected}, found {shortened(found)}{near}")


def shortened(found: Any) -> str:
    """Show what was given, or its beginning.

    Examples
    --------
    >>> shortened("cat"), shortened(10**5000)
    ("'cat'", 'a number of too many digits')
    """
    try:
        shown = repr(found)
    except ValueError:  # Python writes no number of more than 4,300 digits
        shown = "a number of too many digits"
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}… of {len(shown):,} characters"
    return shown


def text(name: str, value: Any) -> str:
    """Take text."""
    if not isinstance(value, str) or not value:
        raise refuse(name, "text", value)
    return value


def folder(name: str, value: Any) -> str:
    """Take the path of a folder, as text or as a path."""
    return text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)


def flag(name: str, value: Any) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise refuse(name, "True or False", value)
    return value


def one_of(*allowed: str) -> Parser:
    """Take one of a few words."""
    expected = " or ".join(allowed) if len(allowed) == 2 else f"one of {', '.join(allowed)}"

    def parse(name: str, value: Any) -> str:
        if value not in allowed:
            raise refuse(name, expected, value, suggestion(value, allowed))
        return str(value)

    return parse


def whole(minimum: int) -> Parser:
    """Take a whole number, as text or as a number, of at least `minimum`.

    Examples
    --------
    >>> whole(1)("threads", "4"), whole(1)("threads", 4)
    (4, 4)
    >>> whole(1)("threads", 1.5)
    Traceback (most recent call last):
    mmselect.errors.UsageError: threads: expected a whole number of at least 1, found 1.5
    """

    def parse(name: str, value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else operator.index(value)
        except (ValueError, TypeError):
            number = minimum - 1
        if isinstance(value, bool) or not minimum <= number <= LARGEST:
            raise refuse(name, f"a whole number of at least {minimum}", value)
        return number

    return parse


def between(low: float, high: float, expected: str) -> Parser:
    """Take a number inside an open interval."""

    def parse(name: str, value: Any) -> float:
        try:
            number = float(value)
        except (ValueError, TypeError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not (low < number < high and math.isfinite(number)):
            raise refuse(name, expected, value)
        return number

    return parse


def size(name: str, value: Any) -> int:
    """Take bytes: a whole number, or text such as ``4GB``, ``512MiB`` or ``1e9``.

    Examples
    --------
    >>> size("memory", "4GB"), size("memory", "512MiB"), size("memory", "1.5k"), size("memory", 9)
    (4000000000, 536870912, 1500, 9)
    """
    if not isinstance(value, str):
        return int(whole(1)(name, value))
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]?)(i?)B?\s*", value, re.IGNORECASE)
    if match:
        power = "KMGT".find(match[2].upper()) + 1 if match[2] else 0
        found = float(match[1]) * (1024 if match[3] else 1000) ** power
        if 1 <= found <= LARGEST and (power or found == int(found)):
            return int(found)
    raise refuse(name, "an amount such as 4GB or 512MiB", value)


def parse_budget(budget: Any, n: int, name: str = "budget") -> int:
    """Read a budget for a pool of `n` rows: a count, or a share of all rows.

    Raises
    ------
    BudgetError
        If it is neither a count of at least 1 nor a share in (0 %, 100 %].

    Examples
    --------
    >>> parse_budget("2.5%", 1000), parse_budget(40, 1000), parse_budget("0.01%", 1000)
    (25, 40, 1)
    """
    said = budget.strip() if isinstance(budget, str) else budget
    share = isinstance(said, str) and said.endswith("%")
    try:
        if share:
            part = between(0, math.nextafter(100, 101), BUDGET)(name, said[:-1])
            return max(int(n * part / 100 + 1e-9), 1)
        return int(whole(1)(name, said))
    except UsageError:
        raise BudgetError(str(refuse(name, BUDGET, said))) from None


def amount_or_share(name: str, value: Any) -> str:
    """Take a budget in any unit: a number above 0, or a share; whether it counts shows later."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return count_or_share(name, value)
    try:
        between(0, math.inf, BUDGET)(name, value)
    except UsageError as error:
        raise BudgetError(str(error)) from None
    return str(value)


def count_or_share(name: str, value: Any) -> str:
    """Take a budget, whatever the pool; :func:`parse_budget` reads it for one."""
    parse_budget(value, 1, name)
    return str(value)


def ids(name: str, value: Any) -> tuple[str | ListFile, ...]:
    """Take ids, and files of ids: any sequence or array, but not one text."""
    if isinstance(value, str):
        raise refuse(name, "a sequence of ids", value)
    given = several(name, "a sequence of ids", value)
    return tuple(each if isinstance(each, ListFile) else str(each) for each in given)


def several(name: str, expected: str, value: Any, *one: type) -> Iterable[Any]:
    """Take several things, or a single one of these types."""
    if isinstance(value, one):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise refuse(name, expected, value)
    return value


def conditions(name: str, value: Any) -> tuple[Condition, ...]:
    """Take conditions such as ``vendor=google`` or ``loss>=0.5``, one or several.

    Examples
    --------
    >>> conditions("where", ["vendor != google", "loss>=0.5"])[1]
    Condition(column='loss', operator='>=', value='0.5')
    """
    each = several(name, CONDITION, value, str, Condition)
    return tuple(_condition(name, one) for one in each)


def _condition(name: str, value: Any) -> Condition:
    if isinstance(value, Condition):
        return value
    found = re.fullmatch(r"\s*([A-Za-z0-9_.-]+?)\s*(!=|<=|>=|=|<|>)(.*)", str(value), re.DOTALL)
    if found is None:
        raise refuse(name, CONDITION, value)
    return Condition(found[1], found[2], found[3].strip())


def assignments(name: str, value: Any) -> dict[str, Any]:
    """Take ``NAME=VALUE`` texts, or a mapping."""
    if isinstance(value, Mapping):
        return dict(value)
    each = several(name, "NAME=VALUE, or a mapping", value, str)
    return dict(_assignments("-p", "NAME=VALUE", "([^=]+)=(.*)", each))


def anything(name: str, value: Any) -> Any:
    """Take text that is not empty, or any other value."""
    return text(name, value) if isinstance(value, str) else value


def sources(name: str, value: Any) -> dict[str, Any]:
    """Take ``NAME=SOURCE`` texts, or a mapping of names to anything.

    Examples
    --------
    >>> sources("features", ["image=clip.npz:x=1"])
    {'image': 'clip.npz:x=1'}
    """
    if not isinstance(value, Mapping):
        each = several(name, "NAME=SOURCE, or a mapping", value, str)
        value = dict(_assignments(name, "NAME=SOURCE", "([A-Za-z0-9_.+-]+)=(.+)", each))
    return {str(key): anything(name, each) for key, each in value.items()}


def _assignments(
    name: str, expected: str, pattern: str, said: Iterable[Any]
) -> Iterable[tuple[str, str]]:
    """Cut each text at its first ``=``; a name may be given once."""
    seen = set[str]()
    for each in said:
        found = re.fullmatch(pattern, str(each), re.DOTALL)
        if found is None:
            raise refuse(name, expected, each)
        if found[1] in seen:
            raise UsageError(f"{name}: expected {found[1]} once, found it twice")
        seen.add(found[1])
        yield found[1], found[2]


def columns(name: str, value: Any) -> tuple[tuple[str | None, Any], ...]:
    """Take ``NAME=SOURCE`` or ``SOURCE`` texts, or a mapping; a source may have its own name.

    Examples
    --------
    >>> columns("metadata", ["split=a.csv:split", "a.csv:loss"])
    (('split', 'a.csv:split'), (None, 'a.csv:loss'))
    """
    if isinstance(value, Mapping):
        return tuple((str(key), anything(name, each)) for key, each in value.items())
    made: list[tuple[str | None, Any]] = []
    for each in several(name, "[NAME=]SOURCE, or a mapping", value, str):
        if isinstance(each, tuple):  # as this function made it
            made.append(each)
            continue
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)=(.+)", str(each), re.DOTALL)
        made.append((found[1], found[2]) if found else (None, anything(name, each)))
    return tuple(made)


def names(name: str, value: Any) -> tuple[str, ...]:
    """Take names: a sequence, or one text with commas."""
    found = value.split(",") if isinstance(value, str) else value
    return tuple(text(name, str(each).strip()) for each in several(name, "names", found))


@dataclass(frozen=True)
class Option:
    """How a field is said on the command line, and how what was said is read.

    Attributes
    ----------
    help : str
        One line for people.
    metavar : str
        Stands for the value in help; none for a flag.
    parse : callable
        ``(name, value) -> value``; raises a `UsageError` for what it does not take.
    names : tuple of str
        On the command line; default: the field's name after two dashes.
    many : bool
        Whether it may be repeated.
    lists : bool
        Whether the command line gives files of ids, in place of ids.
    required : bool
        Whether the command line must say it.
    """

    help: str
    metavar: str = ""
    parse: Parser = flag
    names: tuple[str, ...] = ()
    many: bool = False
    lists: bool = False
    required: bool = False


def option(
    default: Any,
    help: str = "",
    metavar: str = "",
    parse: Parser = flag,
    names: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Make a field of a dataclass that is an :class:`Option`."""
    made = Option(help, metavar, parse, names, **more)
    return field(default=default, metadata={"option": made})


def id_list(help: str) -> Any:
    """Make a field that takes ids, on the command line from files that may be repeated."""
    return option(None, f"{help}; repeatable.", "FILE|-", ids, many=True, lists=True)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def asking(kind: type[Any]) -> type[Any]:
    """Make a class of what is asked, without the methods that nobody calls: they take time."""
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)


@asking
class Asked:
    """Base of what is asked: every field is checked by its option's parser."""

    def __post_init__(self) -> None:
        defaults = {each.name: each.default for each in fields(self)}
        for name, option in options(type(self)).items():
            value = getattr(self, name)
            if value is not None or defaults[name] is not None:
                object.__setattr__(self, name, option.parse(name, value))


def options(ask: type[Asked]) -> dict[str, Option]:
    """Options by field: those of the class itself first, then those of its bases."""
    known = {each.name: each.metadata["option"] for each in fields(ask)}
    return {name: known[name] for kind in ask.__mro__ for name in inspect.get_annotations(kind)}
