"""What labeling tools import: Label Studio, CVAT, FiftyOne, Prodigy, Argilla.

What comes back from them is a list of ids again (:mod:`mmselect.lists`); ``docs/labeling-tools.md``
shows the lines for both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmselect.arrays import Index
from mmselect.engine import ranges
from mmselect.errors import NeedsError
from mmselect.output.columns import beside, columns_along
from mmselect.output.tables import (
    ROWS_AT_ONCE,
    How,
    as_json,
    as_lines,
    class_names,
    json_lines,
    json_list,
    pick_fields,
    plain,
)
from mmselect.pool.reading import Pool
from mmselect.predictions import FUSED, heads_of, predict
from mmselect.selection import Selection


class Pick(NamedTuple):
    """One pick, as a tool gets it; `score` is None where the strategy gives no number."""

    id: str
    rank: int
    score: float | None
    data: dict[str, Any]


def label_studio(result: Selection, pool: Pool, how: How) -> Iterator[bytes]:
    """Label Studio's import JSON: one task per pick, its data from the metadata columns.

    ``data.id`` is the sample's id. With ``how.predict`` each task has the fused head's class as a
    prediction, with its probability.
    """
    yield from json_list(_tasks(result, pool, how))
    yield b"\n"


def _tasks(result: Selection, pool: Pool, how: How) -> Iterator[dict[str, Any]]:
    guesses = _predictions(result, pool, how) if how.predict else None
    for pick in _picks(result, pool, how):
        task = {"data": beside({"id": pick.id}, pick.data), "meta": {"rank": pick.rank}}
        yield task if guesses is None else {**task, "predictions": [next(guesses)]}


def _predictions(result: Selection, pool: Pool, how: How) -> Iterator[dict[str, Any]]:
    """Yield each pick's likeliest class as Label Studio's control and object tags take it."""
    control, shown = how.predict or ("", "")
    version = f"mmselect {result.provenance['mmselect']}"
    for start, stop in ranges(0, len(result.ids), ROWS_AT_ONCE):
        for name, probability in predicted(pool, result.indices[start:stop]):
            choice = {
                "from_name": control,
                "to_name": shown,
                "type": "choices",
                "value": {"choices": [name]},
            }
            yield {"model_version": version, "score": probability, "result": [choice]}


def predicted(pool: Pool, rows: Index) -> Iterator[tuple[str, float]]:
    """Yield the fused head's likeliest class of each row, and its probability."""
    head = heads_of(pool)[FUSED]
    with pool.located():
        found = predict(head, rows, "softmax", FUSED)
    names = class_names(pool, head.shape[1])
    best, probability = found.classes[:, 0].tolist(), found.probability[:, 0].tolist()
    for number, sure in zip(best, probability, strict=True):
        yield names[number], sure


def check_predictable(pool: Pool) -> None:
    """Refuse to predict without a fused head.

    Raises
    ------
    NeedsError
        If the pool has none.
    """
    if FUSED not in heads_of(pool):
        message = f"predict: needs {FUSED}, which the pool does not have"
        raise NeedsError(message, file=pool.files[0])


def cvat(result: Selection, pool: Pool, how: How) -> Iterator[bytes]:
    """List files for CVAT in pick order, one per line: the column that was asked for, or ids."""
    for column in columns_along(pool, how.columns or (), result.indices).values():
        return as_lines(column[:])
    return as_lines(result.ids)


def fiftyone(result: Selection, pool: Pool, how: How) -> Iterator[bytes]:
    """One JSON document of lists: ids, ranks and scores, and the columns that were asked for."""
    names = {"id": "ids", "rank": "ranks", "score": "scores"}
    fields = pick_fields(result)
    lists = {to: list(plain(fields[name])) for name, to in names.items()}
    along = columns_along(pool, how.columns or (), result.indices)
    document = beside(lists, {name: column[:] for name, column in along.items()})
    yield f"{as_json(document)}\n".encode()


def prodigy(result: Selection, pool: Pool, how: How) -> Iterator[bytes]:
    """Prodigy's JSON lines: the metadata columns, such as ``text`` or ``image``, and ``meta``."""
    for pick in _picks(result, pool, how):
        meta = {"id": pick.id, "rank": pick.rank, "score": pick.score}
        yield from json_lines([beside({"meta": _without_none(meta)}, pick.data)])


def argilla(result: Selection, pool: Pool, how: How) -> Iterator[bytes]:
    """Argilla's records as JSON lines: columns of text are fields, numbers are metadata."""
    for pick in _picks(result, pool, how):
        numbers = {k: v for k, v in pick.data.items() if not isinstance(v, str)}
        fields = {k: v for k, v in pick.data.items() if isinstance(v, str)}
        metadata = _without_none(beside({"rank": pick.rank, "score": pick.score}, numbers))
        yield from json_lines([{"id": pick.id, "fields": fields, "metadata": metadata}])


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not there, for tools that take no null."""
    return {k: v for k, v in values.items() if v is not None and v == v}


def _picks(result: Selection, pool: Pool, how: How) -> Iterator[Pick]:
    """Yield each pick with its columns, all unless some were asked for; some thousand at a time."""
    names = pool.names("/metadata") if how.columns is None else how.columns
    along = columns_along(pool, names, result.indices)
    for start, stop in ranges(0, len(result.ids), ROWS_AT_ONCE):
        columns = [column[start:stop] for column in along.values()]
        for i in range(start, stop):
            data = dict(zip(along, (column[i - start] for column in columns), strict=True))
            score = float(result.scores[i])
            yield Pick(result.ids[i], i + 1, None if math.isnan(score) else score, data)
