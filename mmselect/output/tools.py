"""What other programs import: tasks for Label Studio."""

from __future__ import annotations

from collections.abc import Iterator

from mmselect.errors import SelectionError
from mmselect.output.tables import Fields, as_json, plain
from mmselect.pool.reading import Pool
from mmselect.selection import Selection


def label_studio(result: Selection, pool: Pool) -> Iterator[bytes]:
    """Label Studio's import JSON: one task per pick, its data from the metadata columns."""
    columns = {name: pool.columns[f"/metadata/{name}"] for name in pool.names("/metadata")}
    data: Fields = {name: plain(column[result.indices]) for name, column in columns.items()}
    data = {"id": result.ids, **{k: v for k, v in data.items() if k != "id"}}
    if not columns:
        message = "label-studio: expected /metadata columns with what is to be shown, found none"
        raise SelectionError(message, file=pool.files[0])
    tasks = [
        {"data": dict(zip(data, row, strict=True)), "meta": {"rank": rank}}
        for rank, row in enumerate(zip(*data.values(), strict=True), start=1)
    ]
    yield f"{as_json(tasks, indent=1)}\n".encode()
