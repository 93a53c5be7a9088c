"""What other programs import: tasks for Label Studio."""

from __future__ import annotations

from collections.abc import Iterator

from mmselect.output.tables import Fields, as_json, plain
from mmselect.pool.reading import Pool
from mmselect.selection import Selection


def label_studio(result: Selection, pool: Pool) -> Iterator[bytes]:
    """Label Studio's import JSON: one task per pick, its data from the metadata columns.

    ``id`` is the sample's id; a metadata column of that name becomes ``metadata_id``.
    """
    columns = {name: pool.columns[f"/metadata/{name}"] for name in pool.names("/metadata")}
    data: Fields = {name: plain(column[result.indices]) for name, column in columns.items()}
    if "id" in data:  # the name of the task's sample is what lists are read by
        free = "metadata_id"
        while free in data:
            free = f"metadata_{free}"
        data[free] = data.pop("id")
    data = {"id": result.ids, **data}
    tasks = [
        {"data": dict(zip(data, row, strict=True)), "meta": {"rank": rank}}
        for rank, row in enumerate(zip(*data.values(), strict=True), start=1)
    ]
    yield f"{as_json(tasks, indent=1)}\n".encode()
