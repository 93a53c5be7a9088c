"""Picks as ``select`` wrote them, in any form: ids, and what else the file says of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmselect import lists
from mmselect.arrays import Floats, Index
from mmselect.errors import MOST_NAMED, InputError, SelectionError
from mmselect.lists import ListFile
from mmselect.pool.reading import Pool
from mmselect.selection import Selection

TOLD: dict[str, type] = {
    "strategy": str,
    "parameters": dict,
    "where": list,
    "lists": dict,
    "constraints": list,
    "warnings": list,
}
"""What a provenance holds under some names; a file may hold anything, and the rest is dropped."""


@dataclass(frozen=True)
class Shown:
    """Picks to show, in pick order.

    Attributes
    ----------
    rows : (k,) integer array
        Rows of the pool, each once.
    scores : (k,) float64 array
        What each was worth; nan where nobody says.
    provenance : dict
        What made them; empty where nobody says.
    """

    rows: Index
    scores: Floats
    provenance: dict[str, Any] = field(default_factory=dict)


def of_selection(picks: Selection) -> Shown:
    """Take what a selection knows of its picks."""
    return Shown(picks.indices, picks.scores, picks.provenance)


def of_list(
    pool: Pool, given: ListFile | Sequence[str], ignore_unknown: bool, warnings: list[str]
) -> Shown:
    """Find the picks of a list in the pool.

    Parameters
    ----------
    pool : Pool
    given : ListFile or sequence of str
        A file in any form that a list may have, or ids.
    ignore_unknown : bool
        Skip ids that the pool does not have, with a warning.
    warnings : list of str
        Grows.

    Raises
    ------
    InputError
        If the file cannot be understood, or names nothing.
    SelectionError
        For an id that the pool does not have.
    """
    if isinstance(given, ListFile):
        source: str | None = given.source
        names = given.ids(lambda name: not pool.ids.find([name])[1])
        scores, provenance = _scores(given.text), _provenance(given.text)
    else:
        source, names, scores, provenance = None, list(given), {}, {}
    _, missing = pool.ids.find(names)
    if missing:
        near = pool.ids.near(missing[:MOST_NAMED])
        found = lists.unknown(source, names, missing, near)
        if not ignore_unknown:
            message = f"picks: expected ids of the pool, found {found}"
            raise SelectionError(message, file=pool.files[0])
        warnings.append(f"picks: ignored {found}")
    unknown = {*missing}
    kept = [name for name in dict.fromkeys(names) if name not in unknown]
    if len(kept) < len(names) - sum(name in unknown for name in names):
        warnings.append(f"picks: {len(names) - len(kept):,} ids are there more than once")
    if not kept:
        raise InputError("expected the ids of picks, found none", file=source)
    worth = np.array([scores.get(name, math.nan) for name in kept])
    return Shown(pool.ids.find(kept)[0], worth, provenance)


def _provenance(text: str) -> dict[str, Any]:
    """Read what made the picks, where the list is the JSON that ``select`` writes."""
    whole = _json(text)
    found = whole.get("provenance") if isinstance(whole, dict) else None
    told = found if isinstance(found, dict) else {}
    return {
        name: value for name, value in told.items() if isinstance(value, TOLD.get(name, object))
    }


def _scores(text: str) -> dict[str, float]:
    """Scores by id, where the list has them: JSON, JSON lines, or a table."""
    whole = _json(text)
    entries: Any = whole.get("picks") if isinstance(whole, dict) else whole
    if entries is None:
        lines = text.splitlines()
        if text.lstrip().startswith("{"):
            entries = [_json(line) for line in lines]
        elif lines and {"id", "score"} <= {*lines[0].split(",")}:
            entries = list(csv.DictReader(io.StringIO(text, newline="")))
    if not isinstance(entries, list):
        return {}
    found = [e for e in entries if isinstance(e, dict) and {"id", "score"} <= e.keys()]
    return {str(entry["id"]): _number(entry["score"]) for entry in found}


def _json(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float:
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        return math.nan
