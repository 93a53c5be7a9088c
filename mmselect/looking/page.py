"""Write the page of the picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmselect.ask import Looking, Picking, Selecting
from mmselect.constraint import joined
from mmselect.engine import Progress
from mmselect.errors import UsageError
from mmselect.keywords import accepts
from mmselect.lists import ListFile
from mmselect.looking.data import View, page_data
from mmselect.looking.picks import Shown, of_list, of_selection
from mmselect.option import conditions
from mmselect.output.emitting import emit
from mmselect.output.page import assemble
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.request import count_budget, prepare
from mmselect.rows import choose_rows
from mmselect.selection import Selection, carry_out
from mmselect.workers import engine_of

FOLDER = Path(__file__).parent

Picks = Selection | ListFile | Sequence[str]


@accepts(Looking)
def look(
    pool: Pool | PoolPath | Sequence[PoolPath],
    picks: Picks | None = None,
    *,
    output: str | Path,
    constraints: Sequence[str] = (),
    progress: Progress | None = None,
    **asked: Any,
) -> list[str]:
    """Write one page on which a person sees the picks: pictures, text, predictions, why, a map.

    Parameters
    ----------
    pool : Pool, path, or sequence of paths
        Several paths are shards of one pool.
    picks : Selection, or sequence of str, optional
        What :func:`mmselect.select` returned, or ids. None: as many as `budget` says are picked.
    output : path
        The page, one HTML file that needs nothing beside it.
    constraints : sequence of str
        As of :func:`mmselect.select`; without `picks`.
    progress : callable, optional
        Told ``(done, total)`` while picking.
    {options}

    Returns
    -------
    list of str
        What the user should know, such as pictures that are missing.

    Raises
    ------
    MmselectError
        Of the kind that fits; see :mod:`mmselect.errors`.

    Examples
    --------
    >>> import mmselect, pathlib, tempfile
    >>> from mmselect.demo import EMOJI
    >>> page = pathlib.Path(tempfile.mkdtemp()) / "page.html"
    >>> mmselect.look(EMOJI, ["google/key"], output=page, where="split=train")
    ['where split=train: 764 rows taken away']
    >>> page.read_text()[:15]
    '<!doctype html>'
    """
    ask = Looking(**joined(asked, constraints))
    with opened_pool(pool) as opened:
        view = view_of(opened, ask, picks, progress)
        emit([page_of(view)], Path(output))
    return view.warnings


def view_of(
    pool: Pool, ask: Looking, picks: Picks | None, progress: Progress | None = None
) -> View:
    """Find the picks, or make them, and the rows that they are compared with.

    Raises
    ------
    UsageError
        If neither picks nor a budget is given, or both.
    MmselectError
        As for a selection.
    """
    engine, warnings = engine_of(ask, progress), list[str]()
    if picks is None:
        shown = of_selection(_pick(pool, ask, warnings, progress))
        labeled, allowed, _ = choose_rows(pool, ask, [])
    else:
        _refuse_both(ask)
        shown = _found(pool, ask, picks, warnings)
        ask = _as_made(ask, shown, warnings)
        labeled, allowed, _ = choose_rows(pool, ask, warnings)
    if len(shown.rows) > ask.cards:
        more = f"the first {ask.cards:,} of {len(shown.rows):,} picks have a card"
        warnings.append(f"{more}; --cards N shows more")
    population = np.union1d(np.flatnonzero(allowed), shown.rows)
    return View(pool, ask, shown, np.flatnonzero(labeled), population, engine, warnings)


def page_of(view: View) -> bytes:
    """Make the page."""
    data = page_data(view)
    body, style, *scripts = (
        (FOLDER / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "page.js", "map.js")
    )
    title = f"{data['pool']['picks']:,} picks from {data['pool']['name']}"
    return assemble(title, body, style=style, script="\n".join(scripts), data=data)


def _pick(pool: Pool, ask: Looking, warnings: list[str], progress: Progress | None) -> Selection:
    if ask.budget is None:
        expected = "expected a list of picks, or --budget N to pick so many here"
        raise UsageError(f"picks: {expected}; found neither")
    known = {field.name for field in fields(Selecting)}
    said = {f.name: getattr(ask, f.name) for f in fields(ask) if f.name in known}
    selecting = Selecting(**said)
    request = prepare(pool, selecting, progress=progress)
    found = carry_out(request, count_budget(selecting, request), ask.seed)
    warnings.extend([*request.warnings, *request.notices])
    return found


def _refuse_both(ask: Looking) -> None:
    how = ("budget", "strategy", "parameters", *(field.name for field in fields(Picking)))
    given = [n for n in how if getattr(ask, n) != getattr(Looking, n)]
    if given:
        raise UsageError(f"{given[0]}: says how to pick, but picks are given; expected one of both")


def _found(pool: Pool, ask: Looking, picks: Picks, warnings: list[str]) -> Shown:
    if isinstance(picks, Selection):
        return of_selection(picks)
    return of_list(pool, picks, ask.ignore_unknown, warnings)


def _as_made(ask: Looking, shown: Shown, warnings: list[str]) -> Looking:
    """Compare with the rows that the picks were made from, as far as they say which."""
    made = shown.provenance
    lists = made.get("lists")
    missing = [
        option
        for option in (lists if isinstance(lists, Mapping) else ())
        if getattr(ask, option, None) is None
    ]
    said = "the picks were made with such a list; give it here too"
    warnings.extend(f"{option}: {said}" for option in missing)
    changed: dict[str, Any] = {}
    if ask.where is None and isinstance(made.get("where"), list):
        changed["where"] = conditions("where", made["where"])
    if made.get("ignore_mask") is True:
        changed["ignore_mask"] = True
    return replace(ask, **changed)
