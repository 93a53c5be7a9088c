"""What the strategies over features share: rows in, picks out, and each sample's nearest pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmselect.arrays import Array, Index
from mmselect.core.chosen import Chosen, held_bytes, over_blocks
from mmselect.core.coverage.ahead import SAMPLED
from mmselect.core.coverage.columns import columns_held
from mmselect.core.coverage.drafting import CELLS
from mmselect.core.coverage.exact import MATRIX_BYTES
from mmselect.core.coverage.facility import is_exact
from mmselect.core.coverage.foresight import foresee, nearer_than_labeled
from mmselect.core.coverage.gains import TILE as SIDE
from mmselect.core.coverage.inverted import LISTED
from mmselect.core.coverage.matching import ROWS, Coverage
from mmselect.core.coverage.neighbours import FLAT_UP_TO, TRAINING
from mmselect.core.coverage.products import QUERIES, TILE
from mmselect.core.coverage.sparse import KEPT, NEIGHBOURS, neighbours_digest, rows_held
from mmselect.core.coverage.traversal import GUIDES, SKETCH, SKETCHED
from mmselect.core.joined import fits_ready, joined
from mmselect.core.presence import Mask, Present, check_present
from mmselect.core.sampling.nearest import nearest_picks
from mmselect.core.sampling.points import feature_points
from mmselect.core.unit_rows import held_as
from mmselect.engine import SERIAL
from mmselect.errors import located
from mmselect.strategies.record import Batch, Nearest, Picks, datasets_of, masks_in

FEATURES = "/features"

ASKED = 512
"""Candidates that are looked at for a plan."""

SEARCHING, SEARCHING_EACH = 150_000_000, 700
"""Bytes that each thread takes while it looks for neighbours: anyway, and for each sample."""

TILES = 50_000_000
"""Bytes that each thread takes while it compares all samples with each other."""

LARGE = 200_000
"""Samples above which a thread takes no more."""


def features_of(batch: Batch, rows: Index | None = None) -> tuple[dict[str, Any], Present]:
    """Features of the candidates, or of other rows, as stored; and who has which modality.

    In memory, or to be read by block: see :func:`held_bytes`.
    """
    rows = batch.candidates if rows is None else rows
    paths, present = batch.group(FEATURES), batch.present(rows=rows)
    if not held_bytes([batch.columns[path] for path in paths], len(rows), batch.engine.memory):
        return streamed(batch, rows)
    found = {}
    with batch.engine.phase("reading features") as report:
        for done, path in enumerate(paths, 1):
            found[path] = batch.columns[path][rows]
            report(done, len(paths))
    return found, present


def streamed(batch: Batch, rows: Index) -> tuple[dict[str, Any], Present]:
    """Give what :func:`features_of` gives, to be read block by block."""
    found = {path: Chosen(batch.columns[path], rows) for path in batch.group(FEATURES)}
    return found, batch.present(rows=rows)


def cover_by(
    method: Callable[..., Coverage], batch: Batch, k: int, unit: bool, stream: bool = False
) -> Picks:
    """Run a coverage method over the candidates, given what is labeled.

    With `stream` the method gets features that it reads block by block, as it needs them.
    """
    rows = np.union1d(batch.candidates, batch.labeled)
    labeled = np.searchsorted(rows, batch.labeled)
    features, present = (streamed if stream else features_of)(batch, rows)
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
        how: dict[str, Any] = {"present": present, "engine": batch.engine}
        if unit:
            features, how["present"] = {"unit rows": joined(features, unit=True, **how)}, {}
        points = feature_points(features, **how)
        found = nearest_picks(points, positions, engine=batch.engine)
        return Nearest(*found)

    return nearest


def mean_row_warnings(
    features: Mapping[str, Any], present: Present, found: Coverage
) -> tuple[str, ...]:
    """Say which modalities have rows that are nothing without the mean: equal rows above all."""
    warnings = []
    for path, count in found.zero_rows.items():
        equal = count - _zeros(features[path], present.get(path)) if count else 0
        if equal:
            what = f"{equal:,} rows equal the mean of all rows"
            warnings.append(f"{path}: {what}, so less the mean they are similar to nothing")
    return tuple(warnings)


def _zeros(array: Any, there: Mask | None) -> int:
    """Count rows of zeros, of those that have the modality."""
    zeros = over_blocks(lambda _first, block: ~block.any(axis=1), array, SERIAL, "counting rows")
    found = np.concatenate(list(zeros))
    return int(found.sum() if there is None else found[there].sum())


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
        n, width = len(request.candidates), _width(request)
        return int(each * n * width + per_sample * n + 8 * k * width + beside)

    return footprint


def _columns(request: Any) -> list[Any]:
    """Features of all modalities."""
    return [c for p, c in request.pool.columns.items() if p.startswith(f"{FEATURES}/")]


def _width(request: Any) -> int:
    """Σd, of all modalities."""
    return sum(column.shape[1] for column in _columns(request))


def held_features(request: Any) -> tuple[int, int, int]:
    """Bytes of the features of candidates and labeled rows that are held, these rows, and Σd."""
    n = len(request.candidates) + len(request.labeled)
    return held_bytes(_columns(request), n, request.engine.memory), n, _width(request)


def traversal_footprint(request: Any, k: int) -> int:
    """Estimate what k-center greedy keeps: centers, bounds and a sketch of each row, some rows."""
    held, n, width = held_features(request)
    held += 4 * n * width * fits_ready(n, width, request.engine.memory)
    centers = len(request.labeled) + k
    guides = min(GUIDES, width) if centers > SKETCHED else 0
    return int(held + n * (108 + 4 * guides) + 4 * centers * (width + SKETCH) + 6e6)


def centres_footprint(request: Any, k: int) -> int:
    """Estimate what moving centres about takes: each row's list of centres, and blocks."""
    held, n, width = held_features(request)
    return int(held + 170 * n + _moving(request, k, width) + 20e6)


def mixing_footprint(request: Any, k: int) -> int:
    """Estimate what mixing features takes: those samples that a mix changes, and their centres."""
    n, width = len(request.candidates), _width(request)
    return int(4 * n * width + _moving(request, k, width) + 15e6)


def _moving(request: Any, k: int, width: int) -> int:
    """Bytes of `k` centres that move, and of blocks of rows with their products."""
    block = 12 * min(ROWS * k, 1 << 22) + 5 * ROWS * width
    return int(32 * k * width + request.engine.threads * block)


def facility_footprint(request: Any, k: int) -> int:
    """Estimate what facility location keeps: all similarities, or known pairs in two orders."""
    n, given = len(request.candidates), request.parameters
    if is_exact(given.get("form", "auto"), n):
        matrix = 4 * n * n
        own = matrix if matrix <= MATRIX_BYTES else _without_matrix(request, k)
        held, rows, width = held_features(request)
        stored, made = held_as(_columns(request), rows, request.engine.memory)
        features = stored * held + made * 4 * n * width
        return int(features + own + 22e6)
    n = len(request.candidates) + len(request.labeled)
    count = min(given.get("neighbours", NEIGHBOURS), n)
    kept = n * (100 + count * (8 + 8.5 * _kept_share(request, count)))  # in two orders, in the end
    return int(max(_searching(request, n, count), kept)) + 110_000_000  # faiss


def joins_features(request: Any) -> bool:
    """Whether facility location holds features as rows of all modalities, not as stored."""
    n, memory = len(request.candidates), request.engine.memory
    rows = n + len(request.labeled)
    if is_exact(request.parameters.get("form", "auto"), n):
        return held_as(_columns(request), rows, memory)[1]
    return rows_held(_columns(request), rows, memory)[2]


def _searching(request: Any, n: int, count: int) -> int:
    """Estimate what looking for neighbours takes: rows, what is found, blocks of each thread."""
    width, threads = _width(request), request.engine.threads
    stored, made, whole = rows_held(_columns(request), n, request.engine.memory)
    found = stored + 8 * n * count
    if n <= FLAT_UP_TO:
        each = TILES + (not whole) * 4 * (QUERIES + TILE) * width
        return int(found + whole * made + threads * each)
    each = SEARCHING + SEARCHING_EACH * min(n, LARGE) + (not whole) * 4 * LISTED * width
    training = 4 * TRAINING * int(4 * n**0.5) * width
    return int(max(stored + whole * made + training, found + made + threads * each))


def _without_matrix(request: Any, k: int) -> int:
    """Estimate what the exact form takes where pairs are drafted, proved and held, by some rows."""
    n = len(request.candidates)
    features, labeled, how = _some_features(request, ASKED, 4 * ASKED)
    found = foresee(features, k, labeled, n, **how)
    held = 4 * n * columns_held(n, request.engine.memory) * found.drafted
    draft = 4 * n * (min(CELLS, n) * found.drafted + SAMPLED)
    pairs = found.pairs * (1.6 if found.drafted else 1.2)  # at most, as measured
    waiting = min((2 * request.engine.threads + 1) * 2 * SIDE / n, 1) * pairs
    # Pairs take 12 bytes each as they are found, 8 more while they are put in order.
    return int(max(held + max(draft, 12 * pairs), 20 * pairs) + 12 * waiting)


def _kept_share(request: Any, count: int) -> float:
    """Share of pairs of neighbours that are nearer than any labeled sample, by some rows."""
    of_labeled = 4 * ASKED * len(request.labeled) // max(len(request.candidates), 1)
    if not of_labeled:
        return 1.0
    features, labeled, how = _some_features(request, 4 * ASKED, of_labeled)
    nearer = nearer_than_labeled(features, labeled, **how)
    share = np.minimum(nearer + 1, count).mean() / count
    return float(min(share * (1 + of_labeled**-0.5), 1))  # so few labeled samples may err


def _some_features(
    request: Any, candidates: int, labeled: int
) -> tuple[dict[str, Array], Index, dict[str, Any]]:
    """Read so many candidates and labeled rows, evenly spread; which are labeled, and options."""
    columns = {**request.columns, **request.spread_columns}
    known = _some(request.labeled, labeled)
    every = np.union1d(_some(request.candidates, candidates), known)
    features = {
        path: np.clip(np.nan_to_num(columns[path][every].astype(np.float64)), -1e99, 1e99)
        for path in datasets_of(FEATURES, set(columns))
    }
    present = masks_in(columns, FEATURES, every)
    how = {"present": present, "center": request.parameters.get("center", True)}
    return features, np.searchsorted(every, known), how


def _some(rows: Index, count: int) -> Index:
    """Take some of these rows, evenly spread."""
    return rows[:: -(-len(rows) // count) or 1]


def kept_neighbours(batch: Batch) -> tuple[Path, int] | None:
    """File in which facility location would keep neighbours, and its bytes; None: none of them."""
    given, cache = batch.parameters, batch.engine.cache
    if cache is None or is_exact(given.get("form", "auto"), len(batch.candidates)):
        return None
    rows = np.union1d(batch.candidates, batch.labeled)
    features, present = streamed(batch, rows)
    masks = check_present(present, [*features], len(rows))
    count = min(given.get("neighbours", NEIGHBOURS), len(rows))
    digest = neighbours_digest(features, masks, count, given.get("center", True), batch.engine)
    return cache.file(KEPT, digest), 8 * count * len(rows)
