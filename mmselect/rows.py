"""Which rows are labeled and which may be picked: the pool's mask, lists of ids, conditions."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect import lists
from mmselect.ask import Ask
from mmselect.errors import MOST_NAMED, SelectionError
from mmselect.option import LONGEST, Condition
from mmselect.pool.ids import as_stored
from mmselect.pool.reading import Pool

Mask: TypeAlias = NDArray[np.bool_]

SPLIT = "/metadata/split"

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""What each operator of ``--where`` does."""


def choose_rows(pool: Pool, ask: Ask, warnings: list[str]) -> tuple[Mask, Mask, dict[str, Any]]:
    """Decide which rows are labeled and which may be picked; warn of how many each list took.

    Returns
    -------
    labeled, allowed : (n,) bool arrays
    asked : dict
        What said so, as provenance tells it: lists with a digest of each, conditions, no mask.

    Raises
    ------
    SelectionError
        For an id that the pool does not have, or a condition that does not fit it.
    """
    labeled, stays = pool.labeled.copy(), dict[str, Mask]()
    asked: dict[str, Any] = {"ignore_mask": True} if ask.ignore_mask else {}
    if ask.ignore_mask:
        count = int(labeled.sum())
        warnings.append(f"ignore-mask: {count:,} rows of the pool's mask do not count as labeled")
        labeled[:] = False
    for option in lists.LISTS:
        if getattr(ask, option) is not None:
            listed, told = _mask(pool, ask, option, warnings)
            asked.setdefault("lists", {})[option] = told
            stays[option] = listed if option == "among" else ~listed
    for condition in ask.where or ():
        stays[str(condition)] = _fits(pool, condition)
        asked.setdefault("where", []).append("".join(condition))
    allowed = ~labeled
    for what, fits in stays.items():
        count = int((allowed & ~fits).sum())
        warnings.append(f"{what}: {count:,} row{'s'[: count != 1]} taken away")
        allowed &= fits
    warnings += _split_notices(pool, ask, allowed)
    if "labeled" in stays:
        labeled |= ~stays["labeled"]
    return labeled, allowed, asked


def _fits(pool: Pool, condition: Condition) -> Mask:
    """Which rows fulfil a condition on a metadata column."""
    column, sign, value = condition
    path = pool.metadata(column, str(condition)).path
    values = pool.columns[path][:]
    compare = COMPARE[sign]
    if values.dtype.kind in "OSU":
        if sign not in ("=", "!="):
            message = f"{condition}: expected = or != for a column of text, found {sign!r}"
            raise SelectionError(message, file=pool.files[0], dataset=path)
        found: Mask = compare(as_stored(values), value.encode("utf-8", "surrogateescape"))
        return found.astype(bool)
    with np.errstate(over="ignore"):  # a bound that the column's type cannot hold is infinite
        return np.asarray(compare(values, number(pool, path, str(condition), value)), bool)


def number(pool: Pool, path: str, said: str, value: str) -> int | float:
    """Read the number that a column of numbers is compared with.

    Raises
    ------
    SelectionError
        If it is none.
    """
    word = {"true": "1", "false": "0"}.get(value.lower(), value)
    for kind in (int, float):
        try:
            found: int | float = kind(word)
        except ValueError:
            continue
        if abs(found) <= sys.float_info.max:
            return found
    message = f"{said}: expected a number for a column of numbers, found {word[:LONGEST]!r}"
    raise SelectionError(message, file=pool.files[0], dataset=path)


def _mask(pool: Pool, ask: Ask, option: str, warnings: list[str]) -> tuple[Mask, dict[str, Any]]:
    """Rows that the lists of an option name, and those lists as provenance tells them."""
    mask, files = np.zeros(pool.n, bool), []
    for source, names in lists.by_source(
        getattr(ask, option), lambda name: not pool.ids.find([name])[1]
    ):
        rows, missing = pool.ids.find(names)
        if missing:
            near = pool.ids.near(missing[:MOST_NAMED])
            found = lists.unknown(source, names, missing, near)
            if not ask.ignore_unknown:
                message = f"{option}: expected ids of the pool, found {found}"
                raise SelectionError(message, file=pool.files[0])
            warnings.append(f"{option}: ignored {found}")
        mask[rows] = True
        name = {"source": source} if source else {}
        files.append({**name, "ids": len(names), "digest": lists.digest(names)})
    listed = np.flatnonzero(mask)
    told = {"rows": len(listed), "digest": lists.digest(pool.ids.text(listed)), "files": files}
    return mask, told


def _split_notices(pool: Pool, ask: Ask, allowed: Mask) -> list[str]:
    """Say that test rows may be picked, unless a condition on the split was given."""
    if SPLIT not in pool.columns or any(c.column == "split" for c in ask.where or ()):
        return []
    values = pool.columns[SPLIT][:]
    if values.dtype.kind not in "OSU":
        return []
    words = as_stored(values)
    count = int((allowed & (words == b"test")).sum())
    rest = "split=train" if (words == b"train").any() else "split!=test"
    said = f"{count:,} of the {int(allowed.sum()):,} candidates are test rows by {SPLIT}"
    return [f"{said}; --where {rest} leaves them out"] if count else []
