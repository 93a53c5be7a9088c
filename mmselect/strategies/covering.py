"""What the strategies over features share: rows in, picks out, and each sample's nearest pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, Singles
from mmselect.core.coverage.exact import MATRIX_BYTES, PAIRS
from mmselect.core.coverage.matching import Coverage
from mmselect.core.sampling.d2 import nearest_picks
from mmselect.core.sampling.points import feature_points
from mmselect.strategies.record import Batch, Nearest, Picks

FEATURES = "/features"


def known(batch: Batch) -> tuple[dict[str, Array], Index, Index]:
    """Features of candidates and labeled rows in pool order; the row numbers; the labeled ones."""
    rows = np.union1d(batch.candidates, batch.labeled)
    features = {path: batch.columns[path][rows] for path in batch.group(FEATURES)}
    return features, rows, np.searchsorted(rows, batch.labeled)


def covered(batch: Batch, found: Coverage, rows: Index, unit: bool) -> Picks:
    """Translate the picks of a coverage method whose features were `rows` of the pool."""
    positions = np.searchsorted(batch.candidates, rows[found.picks])
    form = {} if found.form == "exact" else {"form": found.form}
    warnings = zero_row_warnings(found.zero_rows)
    if form:
        warnings += (f"computed in the form {found.form!r}, not exactly",)
    return Picks(
        positions, found.gains, warnings, form, nearest_in_features(batch, positions, unit)
    )


def nearest_in_features(batch: Batch, positions: Index, unit: bool) -> Callable[[], Nearest]:
    """Make what finds each candidate's nearest pick: Euclidean on the concatenated features."""

    def nearest() -> Nearest:
        features = {path: batch.rows(path) for path in batch.group(FEATURES)}
        if unit:
            features = {path: _unit(z) for path, z in features.items()}
        points = feature_points(features)
        found = nearest_picks(points, positions, engine=batch.engine, progress=batch.progress)
        return Nearest(*found)

    return nearest


def _unit(z: Array) -> Singles:
    wide = z.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Floats = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return unit.astype(np.float32)


def zero_row_warnings(zero_rows: Mapping[str, int]) -> tuple[str, ...]:
    """Say which modalities have rows without a direction."""
    return tuple(
        f"{path}: {count:,} rows are all zero, so they are similar to nothing"
        for path, count in zero_rows.items()
        if count
    )


def footprint(request: Any, k: int) -> int:
    """Estimate what these methods keep: features in float32, faiss, and blocks of products."""
    columns = request.pool.columns
    width = sum(c.shape[1] for p, c in columns.items() if p.startswith(f"{FEATURES}/"))
    return int(6 * len(request.candidates) * width + 8 * k * width + 110_000_000)


def coreset_footprint(request: Any, k: int) -> int:
    """Estimate what k-center keeps: the features, and small blocks without faiss."""
    return footprint(request, k) - 90_000_000


def facility_footprint(request: Any, k: int) -> int:
    """Estimate what facility location keeps: all similarities, or known pairs in two orders."""
    n = len(request.candidates)
    pairs = max(PAIRS, request.parameters.get("neighbours", 64) * n)
    matrix = 4 * n * n
    blocks = 200_000_000  # products of two lists, in each thread
    own = matrix if matrix <= MATRIX_BYTES else 24 * pairs + blocks
    return footprint(request, k) + own
