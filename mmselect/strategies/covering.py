"""What the strategies over features share: rows in, picks out, and each sample's nearest pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmselect.arrays import Array, Index
from mmselect.core.coverage.columns import BATCH
from mmselect.core.coverage.exact import MATRIX_BYTES, PAIRS, PAIRS_EACH
from mmselect.core.coverage.facility import EXACT_UP_TO
from mmselect.core.coverage.matching import Coverage
from mmselect.core.features import inverse, row_norms
from mmselect.core.presence import Present
from mmselect.core.sampling.d2 import nearest_picks
from mmselect.core.sampling.points import feature_points
from mmselect.errors import located
from mmselect.strategies.record import Batch, Nearest, Picks

FEATURES = "/features"


def features_of(batch: Batch, rows: Index | None = None) -> tuple[dict[str, Array], Present]:
    """Features of the candidates, or of other rows, in memory; and who has which modality."""
    rows = batch.candidates if rows is None else rows
    paths, present = batch.group(FEATURES), batch.present(rows=rows)
    found = {}
    with batch.engine.phase("reading features") as report:
        for done, path in enumerate(paths, 1):
            found[path] = batch.columns[path][rows]
            report(done, len(paths))
    return found, present


def cover_by(method: Callable[..., Coverage], batch: Batch, k: int, unit: bool) -> Picks:
    """Run a coverage method over the candidates, given what is labeled."""
    rows = np.union1d(batch.candidates, batch.labeled)
    labeled = np.searchsorted(rows, batch.labeled)
    features, present = features_of(batch, rows)
    with located(rows=rows):
        found = method(
            features,
            k,
            labeled=labeled,
            present=present,
            allowed=batch.allowed,
            engine=batch.engine,
            progress=batch.progress,
        )
    warnings = mean_row_warnings(features, present, found)
    return covered(batch, found, rows, unit, warnings)


def covered(
    batch: Batch, found: Coverage, rows: Index, unit: bool, warnings: tuple[str, ...] = ()
) -> Picks:
    """Translate the picks of a coverage method whose features were `rows` of the pool."""
    positions = np.searchsorted(batch.candidates, rows[found.picks])
    form = {} if found.form == "exact" else {"form": found.form}
    if form:
        warnings += (f"computed in the form {found.form!r}, not exactly",)
    nearest = nearest_in_features(batch, positions, unit)
    return Picks(positions, found.gains, warnings, form, nearest)


def nearest_in_features(batch: Batch, positions: Index, unit: bool) -> Callable[[], Nearest]:
    """Make what finds each candidate's nearest pick: Euclidean on the concatenated features."""

    def nearest() -> Nearest:
        features, present = features_of(batch)
        if unit:
            wide = {path: z.astype(np.float64) for path, z in features.items()}
            scaled = {path: z * inverse(row_norms(z))[:, None] for path, z in wide.items()}
            features = {path: z.astype(np.float32) for path, z in scaled.items()}
        points = feature_points(features, present=present, engine=batch.engine)
        found = nearest_picks(points, positions, engine=batch.engine)
        return Nearest(*found)

    return nearest


def mean_row_warnings(
    features: Mapping[str, Array], present: Present, found: Coverage
) -> tuple[str, ...]:
    """Say which modalities have rows that are nothing without the mean: equal rows above all."""
    warnings = []
    for path, count in found.zero_rows.items():
        there = present.get(path, slice(None))
        equal = count - int((~features[path][there].any(axis=1)).sum()) if count else 0
        if equal:
            what = f"{equal:,} rows equal the mean of all rows"
            warnings.append(f"{path}: {what}, so less the mean they are similar to nothing")
    return tuple(warnings)


def holding(each: float, beside: float, per_sample: float = 0) -> Callable[[Any, int], int]:
    """Make the estimate of what a method over features keeps, as measured.

    Parameters
    ----------
    each : float
        Bytes for each number of the features: they are held in float32, and some methods copy them.
    beside : float
        Bytes besides, such as faiss and blocks of products.
    per_sample : float
        Bytes for each sample that do not depend on the width of the features.
    """

    def footprint(request: Any, k: int) -> int:
        columns = request.pool.columns
        width = sum(c.shape[1] for p, c in columns.items() if p.startswith(f"{FEATURES}/"))
        n = len(request.candidates)
        return int(each * n * width + per_sample * n + 8 * k * width + beside)

    return footprint


def facility_footprint(request: Any, k: int) -> int:
    """Estimate what facility location keeps: all similarities, or known pairs in two orders."""
    n, form = len(request.candidates), request.parameters.get("form", "auto")
    matrix = 4 * n * n
    if matrix <= MATRIX_BYTES:
        own = matrix
    elif form == "exact" or (form == "auto" and n <= EXACT_UP_TO):
        own = max(request.engine.memory, 4 * BATCH * n) + 24 * max(PAIRS, PAIRS_EACH * n)
    else:
        blocks = 200_000_000  # products of two lists, in each thread
        own = 24 * request.parameters.get("neighbours", 64) * n + blocks
    return holding(6, 110e6)(request, k) + own
