"""What other programs import: tasks for Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmselect.engine import ranges
from mmselect.output.tables import ROWS_AT_ONCE, Fields, json_list, plain
from mmselect.pool.reading import Pool
from mmselect.selection import Selection


def label_studio(result: Selection, pool: Pool) -> Iterator[bytes]:
    """Label Studio's import JSON: one task per pick, its data from the metadata columns.

    ``id`` is the sample's id; a metadata column of that name becomes ``metadata_id``.
    """
    yield from json_list(
        {"data": data, "meta": {"rank": rank}}
        for rank, data in enumerate(_samples(result, pool), start=1)
    )
    yield b"\n"


def _samples(result: Selection, pool: Pool) -> Iterator[dict[str, Any]]:
    """Yield the data of each pick, some thousand read at a time."""
    names = pool.names("/metadata")
    free = "metadata_id"
    while free in names:
        free = f"metadata_{free}"
    for start, stop in ranges(0, len(result.ids), ROWS_AT_ONCE):
        rows = result.indices[start:stop]
        data: Fields = {name: plain(pool.columns[f"/metadata/{name}"][rows]) for name in names}
        if "id" in data:  # the name of the task's sample is what lists are read by
            data[free] = data.pop("id")
        data = {"id": result.ids[start:stop], **data}
        for row in zip(*data.values(), strict=True):
            yield dict(zip(data, row, strict=True))
