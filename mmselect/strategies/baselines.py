"""Strategies that need no model: chance, and any column the user exported."""

from __future__ import annotations

import numpy as np

from mmselect.core.constraints.highest import take_at_random
from mmselect.errors import DataError, SchemaError
from mmselect.strategies.record import (
    Arrays,
    Batch,
    Columns,
    Parameter,
    Parameters,
    Picks,
    Strategy,
    need,
)


def pick_at_random(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Uniform without replacement; a smaller budget is a prefix of a larger one."""
    if batch.allowed is not None:
        return Picks(take_at_random(batch.allowed, rng))
    return Picks(rng.permutation(len(batch.candidates))[:k])


def rank_by_column(arrays: Arrays, parameters: Parameters) -> Columns:
    """Rank by one exported column of numbers."""
    ((path, values),) = arrays.items()
    if values.dtype.kind not in "iufb":
        raise SchemaError("expected a column of numbers to rank by, found text", dataset=path)
    score = values.astype(np.float64)
    if (bad := np.flatnonzero(~np.isfinite(score))).size:
        message = f"expected finite numbers, found {score[bad[0]]}"
        raise DataError(message, dataset=path, rows=bad.tolist())
    return {"score": -score if parameters["order"] == "ascending" else score}


def column_strategy(column: str) -> Strategy:
    """Make the record of ``column:NAME``."""
    return Strategy(
        name=f"column:{column}",
        kind="score",
        summary=f"top of the exported column /metadata/{column}",
        function=rank_by_column,
        needs=(need(f"/metadata/{column}"),),
        parameters=(
            Parameter("order", "descending", "which end comes first", ("descending", "ascending")),
        ),
    )


STRATEGIES = (
    Strategy(
        name="random",
        kind="batch",
        summary="uniform without replacement",
        function=pick_at_random,
        constrained=True,
    ),
    column_strategy("NAME"),
)
