"""Make a pool of the files people have."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmselect.arrays import Array
from mmselect.engine import Progress, ranges, silent
from mmselect.errors import SchemaError, UsageError, few, located
from mmselect.files import check_targets
from mmselect.keywords import accepts
from mmselect.packing.asking import Packing
from mmselect.packing.gathering import gather
from mmselect.packing.kinds import keys_of
from mmselect.packing.linking import link_to, links_of
from mmselect.packing.plan import Item, Plan, make_plan, same
from mmselect.packing.report import Origin, Packed, report
from mmselect.packing.source import Files, Lacking, Source
from mmselect.pool.column import Column
from mmselect.pool.conversion import ARGUMENTS
from mmselect.pool.linked import Link
from mmselect.pool.reading import Pool, open_pool
from mmselect.pool.schema import Axes, axes_of, in_schema_order, per_sample, place_of
from mmselect.pool.writing import PoolWriter

SHARE = 8
"""Into so many parts memory is divided: two blocks, what they are made of, and what HDF5 keeps."""

BLOCK = 4 << 20
"""Bytes of a block where any will do: it stays in cache from its reading to its writing."""

Read = TypeVar("Read")

OUTPUTS = (
    "/unimodal_logits",
    "/multimodal_logits",
    "/coalition_logits",
    "/classifier",
    "/dropout_logits",
)
"""What a model gives: of an older model than new logits, if it comes from another pool."""


@accepts(Packing)
def pack(
    path: str | os.PathLike[str],
    table: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    **asked: Any,
) -> Packed:
    r"""Make a pool of the files people have, in row blocks: it need not fit in memory.

    A source is text, ``FILE`` or ``FILE:KEY``: npy, a folder of npy, npz, safetensors, pt, csv,
    parquet, h5, h5ad, h5mu; or an array, as :func:`mmselect.write_pool` takes it.

    Parameters
    ----------
    path : path
        The pool to write; an existing file is replaced.
    table : path, optional
        A file of columns; a source may then be the name of one.
    progress : callable, optional
        Told ``(rows done, rows in all)`` now and then.
    {options}

    Returns
    -------
    Packed
        What was written, which strategies can run, and what one more file would add.

    Raises
    ------
    MmselectError
        Of the kind that fits, naming source, key and row. Nothing is written then.

    Examples
    --------
    >>> import mmselect, numpy as np, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "clip.npy", np.eye(3, dtype="f4"))
    >>> _ = (folder / "about.csv").write_text("name,kind\na,cat\nb,dog\nc,\n")
    >>> made = mmselect.pack(
    ...     folder / "pool.h5",
    ...     folder / "about.csv",
    ...     features={"image": folder / "clip.npy"},
    ...     ids="name",
    ...     labels="kind",
    ... )
    >>> with mmselect.open_pool(folder / "pool.h5") as pool:
    ...     pool.ids.text([0, 2]), pool.columns["/label"][:].tolist()
    (['a', 'c'], [0, 1, -1])
    """
    return carry_out(Packing(**asked), Path(path), table, progress)


def carry_out(
    ask: Packing,
    target: Path,
    table: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Make a pool of what was asked for; see :func:`pack`."""
    if ask.base is None and all(getattr(ask, name) is None for name in ARGUMENTS):
        raise UsageError(f"expected a source, such as --features NAME={_example(table)}")
    lacking: set[tuple[Path, str]] = set()
    while True:
        try:
            return _carry_out(ask, target, table, progress or silent, Files(lacking))
        except Lacking as found:  # once for each such column, which is then read for it first
            lacking.add(found.column)


def _carry_out(
    ask: Packing,
    target: Path,
    table: str | os.PathLike[str] | None,
    progress: Progress,
    opened: Files,
) -> Packed:
    with opened as files:
        base = files.enter_context(open_pool(ask.base, ids=False)) if ask.base is not None else None
        found = gather(ask, None if table is None else Path(table), base, files)
        read = [str(source.path) for source in found.sources.values() if not source.held]
        check_targets([target], [*read, *(base.files if base else ())])
        folder = Path(os.path.realpath(target)).parent
        plan = make_plan(found.sources, base, ask.join, ask.dtype, folder, files)
        named = None if ask.base is None else few(list(ask.base))
        links = _base_links(ask, plan, base, target, named) | _links(ask, plan, target)
        for name in links:
            plan.items.pop(name, None)
        rows = _check_axes(plan, links)
        _write(plan, links, rows, target, ask.memory, progress)
        origins = dict(_origins(plan, links, named, found.sources))
    return report(target, origins, [*dict.fromkeys([*found.notices, *plan.notices])])


def _example(table: str | os.PathLike[str] | None) -> str:
    """Say what could be a source: columns of the table, if there is one."""
    columns = [] if table is None else keys_of(Path(table))
    return f"COLUMN, one of {few(columns)}" if columns else str(table or "FILE")


def _base_links(
    ask: Packing, plan: Plan, base: Pool | None, target: Path, named: str | None
) -> dict[str, Link]:
    """Point at what another pool has and nobody gave anew; copy texts of shards, which are short.

    HDF5 puts numbers of several files together, but no texts.
    """
    if base is None:
        return {}
    left_out = [f"/{name.strip('/')}" for name in ask.without or ()]
    for name in left_out:
        if not any(path == name or path.startswith(f"{name}/") for path in base.paths):
            raise UsageError(f"without: expected a dataset of {named}, found {name!r}")
    given = plan.items.keys() | plan.constants.keys()
    out = {p for p in base.paths for n in left_out if p == n or p.startswith(f"{n}/")}
    paths = in_schema_order(base.paths - given - out)
    old = [path for path in paths if path.startswith(OUTPUTS)]
    if old and any(path.startswith(OUTPUTS) for path in given):
        plan.notices.append(
            f"{few(old)} still come from {named}; if that is an older model, "
            "give them anew or leave them out with --without"
        )
    texts = [p for p in paths if len(base.files) > 1 and is_text(base.columns.get(p))]
    for path in texts:
        source = Source(Path(base.files[0]), path, base.columns[path].parts, held=named or "")
        plan.items[path] = Item(place_of(path), source, source.column.dtype, same)
    return links_of(base, [path for path in paths if path not in texts], target)


def is_text(column: Column | None) -> bool:
    """Whether a dataset with a row per sample holds text."""
    return column is not None and column.dtype.kind in "OSU"


def _links(ask: Packing, plan: Plan, target: Path) -> dict[str, Link]:
    """Point at sources that need no change, where that was asked for."""
    links: dict[str, Link] = {}
    for path, item in plan.items.items() if ask.link else ():
        if item.place.dataset.kind != "float" or item.source.held:
            continue  # small, or in no file
        same = item.rows is None and item.dtype == item.source.column.dtype
        link = link_to(item.source, target) if same else None
        if link is None:
            why = "HDF5 cannot point at such a file" if same else "its rows or its type change"
            plan.notices.append(f"{item.source.name}: copied, since {why}")
        else:
            links[path] = link
    return links


def _check_axes(plan: Plan, others: Mapping[str, Any]) -> int:
    """Hold all datasets against the format and each other; return the number of samples.

    Raises
    ------
    SchemaError
        Naming the source.
    """
    axes = Axes()
    together = {**others, **plan.constants, **plan.items}
    for path in in_schema_order(together):
        each = together[path]
        source = each.source if isinstance(each, Item) else None
        with located(file=None if source is None else source.name):
            if "n" not in axes.sizes and not per_sample(path):
                continue
            _check_one(path, each, axes)
    if "n" not in axes.sizes:
        raise SchemaError("expected at least one array with a row per sample, found none")
    if not axes.sizes["n"]:
        names = [item.source.name for item in plan.items.values()]
        raise SchemaError(
            "expected a row for each sample, found no rows", file=next(iter(names), None)
        )
    return axes.sizes["n"]


def _check_one(path: str, each: Any, axes: Axes) -> None:
    try:
        axes_of({path: each}, axes)
    except SchemaError as error:
        if "rows, as in" in error.message:
            error.message += "; where both have ids, --join id joins by them"
        raise


def _write(
    plan: Plan,
    links: Mapping[str, Link],
    rows: int,
    target: Path,
    memory: int,
    progress: Progress,
) -> None:
    """Copy all items, block by block."""
    items = plan.items
    row = sum(item.row_bytes for item in items.values())
    chunked = any(item.source.column.chunk_end(1) > 1 for item in items.values())
    size = memory // SHARE if chunked else min(memory // SHARE, BLOCK)
    step = max(size // max(row, 1), 1)
    rooms = [{path: _room(item, min(step, rows)) for path, item in items.items()} for _ in "ab"]

    def read(start: int, stop: int) -> dict[str, Array]:
        """Read a block into the memory of the last but one: the last is being written."""
        memories = rooms[start // step % 2]
        for item in items.values():
            item.announce(stop, stop + step)
        return {
            path: item.read(start, stop, room(memories[path], stop - start))
            for path, item in items.items()
        }

    writing = PoolWriter(target, plan.constants, rows=rows, links=links)
    reading = ahead(starmap(read, ranges(0, rows if items else 0, step)))
    with writing as writer, closing(reading) as blocks:
        for block in blocks:
            progress(writer.rows, rows)
            writer.append(block)
        progress(rows, rows)


def ahead(blocks: Iterator[Read]) -> Generator[Read, None, None]:
    """Have another thread make the next item while the last one is used; closing waits for it.

    Examples
    --------
    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block


def _room(item: Item, rows: int) -> Array | None:
    """Memory that is used again for every other block, of numbers that are stored as they come."""
    dtype = item.source.column.dtype
    changed = item.rows is not None or item.dtype != dtype
    if changed or dtype.kind == "O" or item.source.in_order:
        return None
    return np.empty((rows, *item.shape[1:]), dtype)


def room(memory: Array | None, rows: int) -> Array | None:
    """Take as much of it as a block needs."""
    return None if memory is None else memory[:rows]


def _origins(
    plan: Plan, links: Mapping[str, Link], base: str | None, sources: Mapping[str, Source]
) -> Iterator[tuple[str, Origin]]:
    """Say of each dataset what it is and where it comes from."""
    sources = {**{path: item.source for path, item in plan.items.items()}, **sources}
    every: dict[str, Any] = {**plan.items, **plan.constants, **links}
    for path in in_schema_order(every):
        each = every[path]
        name = sources[path].name if path in sources else base
        kind = "text" if each.dtype.kind in "OSU" else str(each.dtype)
        yield path, Origin(tuple(each.shape), kind, name or "", path in links)
