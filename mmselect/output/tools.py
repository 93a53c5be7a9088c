"""What labeling tools import: Label Studio, CVAT, FiftyOne, Prodigy, Argilla.

What comes back from them is a list of ids again (:mod:`mmselect.lists`); ``docs/labeling-tools.md``
shows the lines for both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmselect.arrays import Index, gather
from mmselect.core.scores.confidence import least_confidence
from mmselect.engine import ranges
from mmselect.errors import NeedsError, located
from mmselect.output.columns import beside, columns_along
from mmselect.output.tables import (
    ROWS_AT_ONCE,
    How,
    as_json,
    as_lines,
    json_lines,
    json_list,
    pick_fields,
    plain,
)
from mmselect.pool.reading import Pool
from mmselect.selection import Selection
from mmselect.strategies.gradients import lacks_logits, model_of

CLASSES = "/class_names"


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
    predicted = _predictions(result, pool, how) if how.predict else None
    for pick in _picks(result, pool, how):
        task = {"data": beside({"id": pick.id}, pick.data), "meta": {"rank": pick.rank}}
        yield task if predicted is None else {**task, "predictions": [next(predicted)]}


def _predictions(result: Selection, pool: Pool, how: How) -> Iterator[dict[str, Any]]:
    """Yield each pick's likeliest class as Label Studio's control and object tags take it."""
    control, shown = how.predict or ("", "")
    version = f"mmselect {result.provenance['mmselect']}"
    for start, stop in ranges(0, len(result.ids), ROWS_AT_ONCE):
        for name, probability in predict(pool, result.indices[start:stop]):
            choice = {
                "from_name": control,
                "to_name": shown,
                "type": "choices",
                "value": {"choices": [name]},
            }
            yield {"model_version": version, "score": probability, "result": [choice]}


def predict(pool: Pool, rows: Index) -> Iterator[tuple[str, float]]:
    """Yield the fused head's likeliest class of each row, and its probability.

    Raises
    ------
    NeedsError
        If the pool has no fused head.
    """
    check_predictable(pool)
    logits = gather([model_of({**pool.columns, **pool.constants}).logits], rows)[0]
    with located(file=pool.files[0], rows=rows):
        sure = 1 - least_confidence(logits)
    names = plain(pool.constants[CLASSES]) if CLASSES in pool.constants else None
    for best, probability in zip(logits.argmax(axis=1).tolist(), sure.tolist(), strict=True):
        yield (names[best] if names else str(best)), probability


def check_predictable(pool: Pool) -> None:
    """Refuse to predict without a fused head."""
    if "/multimodal_logits" not in pool.paths and (
        not pool.names("/features") or lacks_logits(pool.paths, {}, {})
    ):
        message = "predict: needs /multimodal_logits, which the pool does not have"
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
