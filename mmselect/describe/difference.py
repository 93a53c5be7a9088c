"""What ``diff`` says of two selections: what they share, and how the rest differs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmselect.arrays import Index
from mmselect.core.scores.confidence import top_class
from mmselect.core.scores.shapley import contributions
from mmselect.describe.report import BLANK, Table
from mmselect.engine import Engine, processors
from mmselect.errors import SelectionError
from mmselect.lists import ListFile, unknown
from mmselect.output.columns import columns_of
from mmselect.output.layout import percent
from mmselect.output.tables import class_names
from mmselect.pool.reading import Pool, open_pool
from mmselect.predictions import FUSED, heads_of
from mmselect.request import lacking
from mmselect.strategies import registry
from mmselect.strategies.gradients import shapley

SHARES = (0.1, 0.5, 1.0)
"""Of each selection, from its first pick on."""

PARTS, SHOWN = 30, 8
"""Values of a column at most for it to be compared unasked; values of it that are shown."""


@dataclass(frozen=True)
class Difference:
    """Two selections side by side.

    Attributes
    ----------
    names : list of str
        The two files.
    picks : list of int
        How many each has.
    shared : int
        How many are in both.
    jaccard : float
        Shared, of all that are in either.
    first : list of dict
        The same among the first picks of each: ``share`` of them, ``picks``, ``shared``.
    made : dict of str to list
        What of the two provenances differs, where both have one.
    shares : list of dict
        ``of`` (a column, ``predicted class``, or ``modality``), ``value``, and the share of the
        picks that have it, in ``a`` and ``b``.
    means : list of dict
        ``of`` (a column of numbers, or what a modality contributes), and the mean in ``a`` and
        ``b``.
    """

    names: list[str]
    picks: list[int]
    shared: int
    jaccard: float
    first: list[dict[str, Any]]
    made: dict[str, list[Any]]
    shares: list[dict[str, Any]]
    means: list[dict[str, Any]]

    def rows(self) -> Iterator[Table]:
        """Tables for people."""
        sizes = (f"{n:,} picks of {name}" for n, name in zip(self.picks, self.names, strict=True))
        yield list(zip("AB", sizes, strict=True))
        yield from (BLANK, [("shared", f"{self.shared:,}, Jaccard {self.jaccard:.3f}")])
        for each in self.first:
            a, b = each["picks"]
            said = f"{each['shared']:,} (of {a:,} in A, {b:,} in B)"
            yield [(f"shared by the first {percent(each['share'], 0)}", said)]
        if self.made:
            table: Table = [(name, *map(str, values)) for name, values in self.made.items()]
            yield from (BLANK, [("made with", "A", "B"), *table])
        for of in dict.fromkeys(each["of"] for each in self.shares):
            found = [each for each in self.shares if each["of"] == of]
            found.sort(key=lambda each: -abs(each["a"] - each["b"]))
            table = [(each["value"], percent(each["a"]), percent(each["b"])) for each in found]
            rest = [(f"and {len(table) - SHOWN:,} more", "", "")]
            yield from (BLANK, [(of, "A", "B"), *table[:SHOWN], *rest[: len(table) > SHOWN]])
        if self.means:
            table = [(e["of"], f"{e['a']:.4g}", f"{e['b']:.4g}") for e in self.means]
            yield from (BLANK, [("mean", "A", "B"), *table])


def describe_difference(
    a: ListFile, b: ListFile, pools: Sequence[str], columns: Sequence[str] | None = None
) -> Difference:
    r"""Compare two selections, and with their pool what they hold.

    Parameters
    ----------
    a, b : ListFile
        Picks in any form in which lists are read.
    pools : sequence of str
        Files of one pool; none: only ids are compared.
    columns : sequence of str, optional
        Columns of metadata to compare; None: all that have few values, or numbers.

    Raises
    ------
    SelectionError
        For an id or a column that the pool does not have.

    Examples
    --------
    >>> found = describe_difference(ListFile("a", "cat\ndog"), ListFile("b", "dog\nemu"), [])
    >>> found.shared, round(found.jaccard, 3), found.first[0]
    (1, 0.333, {'share': 0.1, 'picks': [1, 1], 'shared': 0})
    """
    if not pools:
        return _difference([a, b], [each.ids(lambda _: False) for each in (a, b)])
    with open_pool(pools) as pool:
        ids, rows = zip(*(_rows(pool, each) for each in (a, b)), strict=True)
        shares = [*_column_shares(pool, rows, columns), *_presence(pool, rows)]
        means = [*_column_means(pool, rows, columns), *_contributions(pool, rows)]
        return _difference([a, b], ids, [*shares, *_classes(pool, rows)], means)


def _difference(
    lists: Sequence[ListFile],
    ids: Sequence[Sequence[str]],
    shares: Sequence[dict[str, Any]] = (),
    means: Sequence[dict[str, Any]] = (),
) -> Difference:
    """Compare ids, in the order of the picks."""
    one, two = (dict.fromkeys(each) for each in ids)
    first = []
    for share in SHARES:
        parts = [list(each)[: math.ceil(share * len(each))] for each in (one, two)]
        shared = len({*parts[0]} & {*parts[1]})
        first.append({"share": share, "picks": [len(p) for p in parts], "shared": shared})
    shared, either = len(one.keys() & two.keys()), len(one.keys() | two.keys())
    return Difference(
        names=[each.source for each in lists],
        picks=[len(one), len(two)],
        shared=shared,
        jaccard=shared / either if either else 1.0,
        first=first,
        made=_made(lists),
        shares=list(shares),
        means=list(means),
    )


def _rows(pool: Pool, given: ListFile) -> tuple[list[str], Index]:
    """Ids of a list, and their rows."""
    names = given.ids(lambda name: not pool.ids.find([name])[1])
    rows, missing = pool.ids.find(names)
    if missing:
        found = unknown(given.source, names, missing, pool.ids.near(missing[:5]))
        raise SelectionError(f"expected ids of the pool, found {found}", file=pool.files[0])
    return names, rows


def _made(lists: Sequence[ListFile]) -> dict[str, list[Any]]:
    """Name what differs between the provenances, where both lists have one."""
    try:
        flat = [_flat(json.loads(given.text)["provenance"]) for given in lists]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    names = dict.fromkeys(name for each in flat for name in each)
    both = {name: [each.get(name, "–") for each in flat] for name in names}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def _flat(made: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance in one level: what was asked for, with one line per parameter and list."""
    told = {n: made.get(n) for n in ("mmselect", "strategy", "spread", "seed", "budget", "where")}
    told |= made.get("parameters", {})
    told["constraints"] = ", ".join(made.get("constraints", ()))
    told |= {name: f"{each['rows']:,} rows" for name, each in made.get("lists", {}).items()}
    told["pool"] = made.get("pool", {}).get("fingerprint", "")[:15]
    return {name: value for name, value in told.items() if value not in (None, "")}


def _column_shares(
    pool: Pool, rows: Sequence[Index], columns: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    """Shares of the values of columns of words, and of whole numbers that are few."""
    for name in pool.names("/metadata") if columns is None else columns:
        if pool.metadata(name, "columns").dtype.kind == "f":
            continue
        values = [[str(v) for v in columns_of(pool, [name], each)[name]] for each in rows]
        if columns is not None or len({*values[0], *values[1]}) <= PARTS:
            yield from _shares(name, values)


def _shares(of: str, values: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    counts = [Counter(each) for each in values]
    for value in sorted({*counts[0], *counts[1]}):
        a, b = (each[value] / max(each.total(), 1) for each in counts)
        yield {"of": of, "value": value, "a": a, "b": b}


def _column_means(
    pool: Pool, rows: Sequence[Index], columns: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    for name in pool.names("/metadata") if columns is None else columns:
        column = pool.metadata(name, "columns")
        if column.dtype.kind == "f":
            yield _means(name, [column[each] for each in rows])


def _means(of: str, values: Iterable[Any]) -> dict[str, Any]:
    a, b = (float(np.mean(each)) if len(each) else math.nan for each in values)
    return {"of": of, "a": a, "b": b}


def _presence(pool: Pool, rows: Sequence[Index]) -> Iterator[dict[str, Any]]:
    """Which share of the picks has each modality that some samples lack."""
    for name, mask in pool.present.items():
        a, b = (float(mask[each].mean()) if len(each) else 0.0 for each in rows)
        yield {"of": "modality that is there", "value": name, "a": a, "b": b}


def _classes(pool: Pool, rows: Sequence[Index]) -> Iterator[dict[str, Any]]:
    """Shares of the fused head's likeliest classes, where the pool has one."""
    logits = heads_of(pool).get(FUSED)
    if logits is None or not all(map(len, rows)):
        return
    names = class_names(pool, logits.shape[1])
    with pool.located():
        found = [top_class(logits, each, Engine(processors()), FUSED) for each in rows]
    yield from _shares("predicted class", [[names[i] for i in each.tolist()] for each in found])


def _contributions(pool: Pool, rows: Sequence[Index]) -> Iterator[dict[str, Any]]:
    """Mean contribution of each modality to the prediction, where Shapley values can be taken."""
    if lacking(registry.BUILT_IN["contribution"], pool) or not all(map(len, rows)):
        return
    sources = {**pool.columns, **pool.constants}
    with pool.located():
        found = [contributions(shapley(sources, np.sort(each))[0]).mean(axis=0) for each in rows]
    for i, name in enumerate(pool.names("/features")):
        yield {"of": f"contribution of {name}", "a": float(found[0][i]), "b": float(found[1][i])}
