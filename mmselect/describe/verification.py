"""What ``verify`` finds: whether a selection that is made again gives the same picks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmselect.ask import Selecting, Verifying
from mmselect.describe.report import Table
from mmselect.engine import Progress
from mmselect.errors import InputError, few
from mmselect.lists import LISTS, ListFile, read_list
from mmselect.option import options
from mmselect.output.emitting import deal
from mmselect.output.tables import as_json
from mmselect.pool.reading import Pool, open_pool
from mmselect.request import count_budget, prepare
from mmselect.selection import Selection, carry_out
from mmselect.version import __version__

HASTY = "expected what mmselect select --format json writes"


@dataclass(frozen=True)
class Verification:
    """Whether picks made again are the same, and what is not as it was.

    Attributes
    ----------
    same : bool
        Whether all picks are the same, in the same order.
    picks, again, shared : int
        How many there were, how many there are now, and how many are in both.
    first : int, optional
        Rank of the first that differs.
    changed : list of str
        What is not as it was: version, pool, lists, parameters, candidates.
    """

    same: bool
    picks: int
    again: int
    shared: int
    first: int | None
    changed: list[str]

    def rows(self) -> Iterator[Table]:
        """One table for people."""
        table: Table = [("picks", f"the same {self.picks:,}")]
        if not self.same:
            shared = f"{self.shared:,} of {self.picks:,} are in both"
            found = f"the first that differs has rank {self.first:,}; {shared}"
            table = [("picks", f"{self.again:,} now; {found}")]
        yield [*table, *(("changed" if not i else "", said) for i, said in enumerate(self.changed))]


def read_selection(source: str) -> dict[str, Any]:
    """Read picks with their provenance.

    Raises
    ------
    InputError
        If the file is not what ``select --format json`` writes.
    """
    given = read_list(source)
    with _well_formed(source):
        found = json.loads(given.text)
        names = [str(pick["id"]) for pick in found["picks"]]
        return {"source": source, "ids": names, "provenance": {**found["provenance"]}}


@contextlib.contextmanager
def _well_formed(source: str) -> Iterator[None]:
    """Turn what goes wrong with a provenance that no select wrote into one error."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        if isinstance(error, json.JSONDecodeError):
            found = "no JSON"
        elif isinstance(error, KeyError):
            found = f"no {error}"
        raise InputError(f"{HASTY}; found {found}", file=source) from None


def verify(
    selected: Mapping[str, Any],
    pools: Sequence[str],
    ask: Verifying,
    progress: Progress | None = None,
) -> Verification:
    """Make a selection again, and compare.

    Parameters
    ----------
    selected : mapping
        From :func:`read_selection`.
    pools : sequence of str
        The pool's files; none: those of the provenance.
    ask : Verifying
        Lists that take the place of those of the provenance; memory, threads, engine.

    Raises
    ------
    InputError
        If a list can not be had again.
    MmselectError
        If the selection can not be made again.
    """
    made = selected["provenance"]
    with _well_formed(selected["source"]):
        asked, paths = ask_again(selected, ask), [*made["pool"]["paths"]]
        part = made.get("split", {"part": 1, "parts": 1})
        number, parts = int(part["part"]) - 1, int(part["parts"])
    with open_pool(pools or paths) as pool:
        again = deal(_select(pool, asked, progress), number, parts)
    before, now = selected["ids"], again.ids
    unequal = [i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b]
    first = unequal[0] if unequal else min(len(before), len(now))
    return Verification(
        same=before == now,
        picks=len(before),
        again=len(now),
        shared=len({*before} & {*now}),
        first=None if before == now else first + 1,
        changed=changes(made, again.provenance),
    )


def _select(pool: Pool, ask: Selecting, progress: Progress | None) -> Selection:
    request = prepare(pool, ask, progress=progress)
    return carry_out(request, count_budget(ask, request), ask.seed)


def ask_again(selected: Mapping[str, Any], ask: Verifying) -> Selecting:
    """Say what a provenance tells that was said."""
    made, source = selected["provenance"], selected["source"]
    constraints: dict[str, list[str]] = {}
    for text in made.get("constraints", ()):
        name, _, value = text.partition(" ")
        constraints.setdefault(name.removeprefix("--").replace("-", "_"), []).append(value)
    known = options(Selecting)
    if unknown := [name for name in constraints if name not in known]:
        raise InputError(f"constraints: expected known ones, found {few(unknown)}", file=source)
    more: dict[str, Any] = {n: v if known[n].many else v[0] for n, v in constraints.items()}
    more |= {name: _list_again(name, made, getattr(ask, name), source) for name in LISTS}
    return Selecting(
        strategy=made["strategy"],
        spread=made.get("spread"),
        seed=made["seed"],
        **made["given"],
        where=made.get("where"),
        ignore_mask=made.get("ignore_mask", False),
        ignore_unknown=True,
        threads=ask.threads,
        engine=ask.engine,
        memory=ask.memory,
        **more,
    )


def _list_again(
    name: str, made: Mapping[str, Any], given: Sequence[str | ListFile] | None, source: str
) -> Sequence[str | ListFile] | None:
    """Take the lists that are given, else read those of the provenance again."""
    if given is not None or name not in made.get("lists", {}):
        return given
    files = made["lists"][name]["files"]
    gone = [each for each in files if each.get("source", "-") == "-"]
    if gone:
        count = sum(each["ids"] for each in gone)
        where = "standard input" if "source" in gone[0] else "Python"
        message = f"{name}: {count:,} ids came from {where}; give them again with --{name} FILE"
        raise InputError(message, file=source)
    return [read_list(each["source"]) for each in files]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what of two provenances differs, beside the picks.

    Examples
    --------
    >>> told = {"mmselect": "0.2.0", "pool": {"fingerprint": "sha256:0"}, "lists": {}}
    >>> changes({**told, "candidates": 9}, {**told, "candidates": 8})
    ['candidates: 8, before 9']
    """
    said = []
    if before.get("mmselect") != __version__:
        said.append(f"mmselect: {__version__}, before {before.get('mmselect')}")
    old, new = (made["pool"].get("fingerprint") for made in (before, now))
    if old != new:
        said.append(f"pool: its content, by the fingerprint {new}, before {old}")
    for name in LISTS:
        old, new = (made.get("lists", {}).get(name) for made in (before, now))
        if (old or {}).get("digest") != (new or {}).get("digest"):
            counts = [f"{each['rows']:,} rows" if each else "none" for each in (new, old)]
            said.append(f"{name}: the list, {counts[0]}, before {counts[1]}")
    for name, value in json.loads(as_json(now.get("parameters", {}), whole=True)).items():
        old = before.get("parameters", {}).get(name)
        if old != value:
            said.append(f"parameter {name}: {value}, before {old}")
    numbers = ("candidates", "labeled", "budget")
    unequal = [name for name in numbers if before.get(name) != now.get(name)]
    return said + [f"{name}: {now.get(name)}, before {before.get(name)}" for name in unequal]
