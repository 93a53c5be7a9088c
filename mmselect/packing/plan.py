"""What goes into a pool, from where and in which order; everything decided, no numbers read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Array, Index
from mmselect.errors import MOST_NAMED, DataError, RowNumbers, SchemaError, UsageError, few, located
from mmselect.packing.fitting import Turn, fitted
from mmselect.packing.joining import (
    Match,
    first_difference,
    ids_in,
    ids_of_pool,
    match,
    names_in,
    some_names,
    spooled,
)
from mmselect.packing.kinds import ids_of
from mmselect.packing.source import Files, Source, in_memory
from mmselect.pool.presence import NOTHING, bare_rows, mask_over
from mmselect.pool.reading import Pool
from mmselect.pool.schema import Place, modalities_in, per_sample, place_of
from mmselect.pool.values import check_values

OF_ONE = ("/features", "/unimodal_logits")
"""Groups whose datasets a sample may lack: it then lacks that modality."""


@dataclass(frozen=True)
class Item:
    """One dataset of the new pool: the rows of a source, each at its sample's place.

    Attributes
    ----------
    place : Place
    source : Source
    dtype : dtype
        In the pool.
    turn : callable
        Turns the source's values into those of the pool.
    rows : (n,) integer array, optional
        Row of the source for each sample, -1 where there is none; None: the same row.
    there : (n,) boolean array, optional
        Samples that have it; the others are filled and not checked.
    """

    place: Place
    source: Source
    dtype: np.dtype[Any]
    turn: Turn
    rows: Index | None = None
    there: NDArray[np.bool_] | None = None

    @property
    def path(self) -> str:
        """Its name in the pool."""
        group, name = self.place.dataset.group, self.place.name
        return group if name is None else f"{group}/{name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a NumPy array."""
        shape = self.source.column.shape
        return shape if self.rows is None else (len(self.rows), *shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row while it is packed; of text, what is usual."""
        column = self.source.column
        if column.dtype.kind == "O":
            return 150
        return prod(column.shape[1:]) * (column.dtype.itemsize + self.dtype.itemsize)

    def read(self, start: int, stop: int, room: Array | None = None) -> Array:
        """Rows of samples `start` to `stop`, checked; in `room`, where they need no change.

        Raises
        ------
        MmselectError
            Naming the source, its key and its row.
        """
        column, there = self.source.column, None if self.there is None else self.there[start:stop]
        numbers: RowNumbers = range(start, stop)
        if self.rows is None:
            block = column.read(start, stop, room)
        else:
            numbers = self.rows[start:stop]
            there = self.rows[start:stop] >= 0 if there is None else there
            block = column.take(np.maximum(self.rows[start:stop], 0))
        dataset = self.source.key or self.path
        with located(rows=numbers, place=self.source.place, dataset=dataset):
            if there is not None and not there.all():
                return self._filled(block, there)
            block = self.turn(block)
            self._check(block)
        return block

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that these rows are read next, so that it reads while we write."""
        if self.rows is None:
            self.source.column.announce(start, stop)

    def _filled(self, block: Array, there: NDArray[np.bool_]) -> Array:
        out = np.full(block.shape, _fill(self.place, self.dtype), self.dtype)
        kept = np.flatnonzero(there)
        with located(rows=kept):
            out[kept] = self.turn(block[kept])
        self._check(out, there)
        return out

    def _check(self, block: Array, there: NDArray[np.bool_] | None = None) -> None:
        """Refuse numbers that no strategy can use; labels and masks are checked elsewhere."""
        if self.place.dataset.kind == "float":
            check_values(self.place, block, {}, there)


def _fill(place: Place, dtype: np.dtype[Any]) -> Any:
    """Say what stands where a sample has nothing."""
    if dtype.kind == "O":
        return b""
    if place.dataset.kind in ("integer", "boolean"):
        return -1 if place.dataset.kind == "integer" else False
    return np.nan


@dataclass
class Plan:
    """All that goes into a pool besides links.

    Attributes
    ----------
    items : dict of path to Item
    constants : dict of path to array
    ids : Source, optional
        Of the samples, where they have any.
    notices : list of str
    """

    items: dict[str, Item] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    ids: Source | None = None
    notices: list[str] = field(default_factory=list)


def make_plan(
    sources: Mapping[str, Source],
    base: Pool | None,
    join: str | None,
    floats: str | None,
    folder: Path,
    files: Files,
) -> Plan:
    """Decide which row of each source is which sample, and what becomes of its values.

    Parameters
    ----------
    sources : mapping of dataset path to Source
    base : Pool, optional
        What the other datasets come from.
    join : {"order", "id"}, optional
        None: by order, unless ids say that it is not the same.
    floats : str, optional
        Type of features and logits.
    folder : Path
        Where rows wait that cannot be read out of order.
    files : Files

    Raises
    ------
    MmselectError
        If sources cannot be joined, or hold what the datasets may not.
    """
    plan = Plan(ids=None if base is None else ids_of_pool(base))
    for path, source in sources.items():
        plan.notices += source.notices
        if not per_sample(path):
            plan.constants[path] = _constant(path, source)
    rows = {path: source for path, source in sources.items() if per_sample(path)}
    if "/id" in rows:
        plan.ids = ids_in(rows["/id"])
    matches = _matches(plan, rows, join, files)
    for path, source in rows.items():
        plan.items[path] = _item(place_of(path), source, matches.get(path), floats)
    _mark_absent(plan, base)
    if "/label" in rows and "/labeled" not in rows:
        _mark_labeled(plan)
    for path, item in plan.items.items():
        if item.rows is not None and item.source.in_order:
            plan.items[path] = replace(item, source=spooled(item.source, folder, files))
    return plan


def _constant(path: str, source: Source) -> Array:
    with located(file=str(source.path), dataset=source.key or path):
        _, turn = fitted(place_of(path), source.column.dtype, None)
        return turn(source.column[:])


def _item(place: Place, source: Source, found: Match | None, floats: str | None) -> Item:
    item = Item(place, source, source.column.dtype, same)
    with located(file=str(source.path), dataset=source.key or item.path):
        dtype, turn = fitted(place, source.column.dtype, floats)
        if found is None or found.same_order:
            return Item(place, source, dtype, turn)
        holes = found.missing.size and dtype.kind in "iub" and place.dataset.group == "/metadata"
        if holes:  # integers and truth have nothing that says "none"
            return Item(place, source, np.dtype("f8"), lambda b: b.astype("f8"), found.rows)
        return Item(place, source, dtype, turn, found.rows)


def same(block: Array) -> Array:
    """Leave values as they are."""
    return block


def _matches(
    plan: Plan, rows: Mapping[str, Source], join: str | None, files: Files
) -> dict[str, Match]:
    """Find the samples in each source, by ids where they are asked for; check that they agree."""
    if join == "order":
        return {}
    names = [rows["/id"].key] if "/id" in rows and rows["/id"].key else []
    carried: dict[str, Source | None] = {}
    known: dict[str, Source] = {} if plan.ids is None else {plan.ids.name: plan.ids}
    for path, source in rows.items():
        holder = None if path == "/id" else ids_of(source, files, names)
        if holder is not None and holder.name not in known and (join or plan.ids):
            known[holder.name] = ids_in(holder)
        carried[path] = None if holder is None else known.get(holder.name)
        if holder is not None and plan.ids is None and join is None:
            plan.notices.append(f"{holder.name} may be ids: --id {holder.name} takes them along")
            return {}
    if join is None:
        _check_order(plan, rows, carried)
        return {}
    plan.ids = plan.ids or next(filter(None, carried.values()), None)
    if plan.ids is None:
        raise UsageError("join: expected ids in a source, found none; give them with --id")
    others_first = sorted(known, key=lambda name: known[name] is plan.ids)  # while memory is free
    met = {name: _met(plan.ids, known[name]) for name in others_first}
    found = {}
    for path, ids in carried.items():
        if path != "/id":
            found[path] = _match(plan, rows[path], ids, met)
    return found


def _met(samples: Source, found: Source) -> Match:
    """Find the samples among some ids; they are all there where these are their own."""
    if found is samples:
        return Match(np.arange(len(samples.column)), 0)
    return match(names_in(samples), len(samples.column), names_in(found))


def _match(plan: Plan, source: Source, ids: Source | None, met: Mapping[str, Match]) -> Match:
    assert plan.ids is not None
    n, count = len(plan.ids.column), len(source.column)
    if ids is None:
        if count != n:
            message = f"expected ids, or {n:,} rows in the order of the samples"
            raise SchemaError(f"{message}, found {count:,} rows without ids", file=source.name)
        said = f"{source.name}: has no ids, so its rows are taken in the order of the samples"
        plan.notices.append(said)
        return Match(np.arange(n), 0)
    if len(ids.column) != count:
        message = f"expected an id for each of {count:,} rows, found {len(ids.column):,}"
        raise SchemaError(message, file=source.name)
    found = met[ids.name]
    if found.missing.size == n:
        ours, theirs = (few(some_names(x, range(min(2, len(x.column))))) for x in (plan.ids, ids))
        raise DataError(f"expected ids such as {ours}, found {theirs}", file=source.name)
    if found.others:
        plan.notices.append(f"{source.name}: {found.others:,} rows of other ids are left out")
    return found


def _check_order(
    plan: Plan, rows: Mapping[str, Source], carried: Mapping[str, Source | None]
) -> None:
    """Refuse to join by order what ids say is not in order."""
    checked = {None if plan.ids is None else plan.ids.name}
    for path, ids in carried.items():
        if ids is None or plan.ids is None or ids.name in checked:
            continue
        checked.add(ids.name)
        if (row := first_difference(plan.ids, ids)) is not None:
            pair = (plan.ids, ids)
            a, b = (repr(some_names(x, [row])[0]) if row < len(x.column) else "none" for x in pair)
            message = (
                f"its ids differ from those of the samples from row {row:,} on: expected {a}, "
                f"found {b}; --join id puts rows in order, --join order takes them as they are"
            )
            raise DataError(message, file=rows[path].name)


def _mark_absent(plan: Plan, base: Pool | None) -> None:
    """Say in ``/present`` which samples lack a modality; refuse what no sample may lack."""
    lacking: dict[str, list[NDArray[np.bool_]]] = {}
    for path, item in plan.items.items():
        missing = _missing(item)
        if missing is None or not missing.any():
            continue
        if item.place.dataset.group in OF_ONE:
            lacking.setdefault(item.place.name or "", []).append(missing)
        elif item.place.dataset.kind == "float" and item.place.dataset.group != "/metadata":
            rows = np.flatnonzero(missing)
            named = few(rows.tolist())
            if plan.ids is not None:
                named = few(some_names(plan.ids, rows[:MOST_NAMED].tolist()), len(rows))
            message = f"lacks {len(rows):,} of the samples: {named}"
            raise DataError(message, file=item.source.name, dataset=path)
        else:
            count, total = int(missing.sum()), len(missing)
            plan.notices.append(
                f"{item.source.name}: has nothing for {count:,} of {total:,} samples"
            )
    _apply_absent(plan, lacking, base)


def _mark_labeled(plan: Plan) -> None:
    """Say in ``/labeled`` which samples have a label, where some have none and nobody says it."""
    item = plan.items["/label"]
    known = item.read(0, item.shape[0]) >= 0
    if known.all() or not known.any():
        what = "every sample has" if known.all() else "no sample has"
        plan.notices.append(f"labels: {what} one; --labeled says which count as labeled")
        return
    plan.notices.append(f"labeled: the {int(known.sum()):,} samples that have a label")
    plan.items["/labeled"] = _item(
        place_of("/labeled"), in_memory("/labeled", known, "the labels"), None, None
    )


def _missing(item: Item) -> NDArray[np.bool_] | None:
    """Find samples for which a source has no row, or nothing in it."""
    empty = None if item.source.absent is None else item.source.absent()
    if item.rows is None:
        return empty
    missing: NDArray[np.bool_] = item.rows < 0
    return missing if empty is None else missing | empty[np.maximum(item.rows, 0)]


def _apply_absent(
    plan: Plan, lacking: Mapping[str, list[NDArray[np.bool_]]], base: Pool | None
) -> None:
    """Complete the masks of presence, and tell the items of a modality which rows are there."""
    masks = {} if base is None else dict(base.present)
    for item in plan.items.values():
        if item.place.dataset.group == "/present":
            masks[item.place.name or ""] = item.read(0, item.shape[0])
    for name, missing in lacking.items():
        absent = np.logical_or.reduce(missing)
        given = masks.get(name)
        masks[name] = ~absent if given is None else given & ~absent
        plan.notices.append(f"{name}: {int(absent.sum()):,} of {len(absent):,} samples have none")
        source = in_memory(f"/present/{name}", masks[name], "rows that are there")
        plan.items[f"/present/{name}"] = _item(place_of(f"/present/{name}"), source, None, None)
    _refuse_bare(plan, masks, lacking, base)
    for path, item in plan.items.items():
        there = mask_over(path, masks)
        if there is not None and len(there) == item.shape[0] and not there.all():
            plan.items[path] = replace(item, there=there)


def _refuse_bare(
    plan: Plan, masks: Mapping[str, NDArray[np.bool_]], lacking: Collection[str], base: Pool | None
) -> None:
    """Refuse samples without any modality, and name a source that lacks them."""
    known = modalities_in({*plan.items} | (set() if base is None else base.paths))
    bare = bare_rows(masks, known).tolist() if lacking else []
    if bare:
        lack = (item for item in plan.items.values() if item.place.name in lacking)
        message = f"{NOTHING}; leave such rows out of all sources"
        raise DataError(message, file=next(lack).source.name, rows=bare)
