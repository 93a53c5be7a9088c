"""Constraints as a user says them: at most N of a group, shares of a value, balance, costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmselect.errors import UsageError
from mmselect.option import refuse, several

GROUP = "COLUMN:N, N at least 1"
SHARE = "COLUMN=VALUE:N, or COLUMN=VALUE:P% with P from 0 to 100"
NAME = "the name of a column: letters, digits and _ . -"


class Group(NamedTuple):
    """``--group``: at most `limit` picks with the same value of a column."""

    column: str
    limit: int

    def __str__(self) -> str:
        return f"{self.column}:{self.limit}"


class Share(NamedTuple):
    """``--at-most`` or ``--at-least``: how many picks have a value, as text: N or P%."""

    column: str
    value: str
    amount: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}:{self.amount}"

    @property
    def percent(self) -> float | None:
        """Share of the budget in percent; None for a count."""
        return float(self.amount[:-1]) if self.amount.endswith("%") else None


def groups(name: str, value: Any) -> tuple[Group, ...]:
    """Take ``COLUMN:N``, one or several.

    Examples
    --------
    >>> groups("group", "character:1")
    (Group(column='character', limit=1),)
    """
    return tuple(_group(name, each) for each in several(name, GROUP, value, str, Group))


def _group(name: str, value: Any) -> Group:
    if isinstance(value, Group):
        return value
    found = re.fullmatch(r"\s*([A-Za-z0-9_.-]+)\s*:\s*(\d{1,18})\s*", str(value))
    if found is None or int(found[2]) < 1:
        raise refuse(name, GROUP, value)
    return Group(found[1], int(found[2]))


def shares(name: str, value: Any) -> tuple[Share, ...]:
    """Take ``COLUMN=VALUE:N`` or ``COLUMN=VALUE:P%``, one or several; VALUE may hold = and :.

    Examples
    --------
    >>> shares("at-most", ["source=a:b=c:10%"])
    (Share(column='source', value='a:b=c', amount='10%'),)
    """
    return tuple(_share(name, each) for each in several(name, SHARE, value, str, Share))


def _share(name: str, value: Any) -> Share:
    if isinstance(value, Share):
        return value
    number = r"(?:(\d{1,18})|(\d+(?:\.\d*)?)\s*%)"
    pattern = rf"\s*([A-Za-z0-9_.-]+)\s*=(.*):\s*{number}\s*"
    found = re.fullmatch(pattern, str(value), re.DOTALL)
    if found is None or (found[4] and float(found[4]) > 100):
        raise refuse(name, SHARE, value)
    return Share(found[1], found[2].strip(), found[3] or f"{found[4]}%")


def column_name(name: str, value: Any) -> str:
    """Take the name of a column."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", value.strip()):
        raise refuse(name, NAME, value)
    return value.strip()


def column_names(name: str, value: Any) -> tuple[str, ...]:
    """Take names of columns, one or several."""
    return tuple(column_name(name, each) for each in several(name, NAME, value, str))


KINDS = ("group", "at-most", "at-least", "balance", "cost")
"""Each kind of constraint, in the order in which they are told."""


def as_texts(ask: Any) -> list[str]:
    """Constraints as a user types them, in a fixed order.

    Parameters
    ----------
    ask : object
        With what was parsed as `group`, `at_most`, `at_least`, `balance` and `cost`; those that
        are None or missing are left out.

    Returns
    -------
    list of str
        Such as ``["--group video:2", "--cost seconds"]``.
    """
    said = []
    for name in KINDS:
        given = getattr(ask, name.replace("-", "_"), None) or ()
        said += [f"--{name} {one}" for one in ([given] if isinstance(given, str) else given)]
    return said


def named_columns(ask: Any) -> list[str]:
    """Columns that constraints name."""
    shares = (*(ask.group or ()), *(ask.at_most or ()), *(ask.at_least or ()))
    return [*(each.column for each in shares), *(ask.balance or ())]


def from_texts(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Arguments for texts such as :func:`as_texts` makes; the dashes may be left out.

    Raises
    ------
    UsageError
        If one names no constraint, or more than one names a cost.

    Examples
    --------
    >>> from_texts("constraints", ["--group video:2", "cost seconds"])
    {'group': ['video:2'], 'cost': 'seconds'}
    """
    found: dict[str, Any] = {}
    for said in several(name, "texts such as '--group video:2'", texts, str):
        kind, _, value = str(said).strip().removeprefix("--").partition(" ")
        if kind not in KINDS or not value.strip():
            raise refuse(name, f"one of {', '.join(KINDS)} and its value", said)
        if kind == "cost" and found.setdefault("cost", value.strip()) != value.strip():
            raise UsageError(f"{name}: expected one cost, found {found['cost']} and {value}")
        if kind != "cost":
            found.setdefault(kind.replace("-", "_"), []).append(value.strip())
    return found


def joined(asked: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Arguments of a function, with the constraints that were given as texts besides.

    Raises
    ------
    UsageError
        If a constraint is given both ways.
    """
    found = from_texts("constraints", texts)
    if twice := [name for name in found if asked.get(name) is not None]:
        raise UsageError(f"constraints: expected {twice[0]} once, found it as an argument too")
    return {**asked, **found}
