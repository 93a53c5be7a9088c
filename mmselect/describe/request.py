"""What ``select --dry-run`` says: what would be read, and what it would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmselect import engine, feasibility
from mmselect.constraining import amount
from mmselect.describe.report import Table, plain
from mmselect.request import Request
from mmselect.scoring import block_rows, task_rows
from mmselect.selection import UNUSED, batch_of
from mmselect.strategies import covering
from mmselect.tasks import WINDOW

BASE_MEMORY = 95_000_000
"""Bytes of the interpreter and its libraries, before any data."""

READ_NAME, KEPT_NAME = 300, 140
"""Bytes that a sample's id takes while the ids are read, where they are text, and afterwards."""


@dataclass(frozen=True)
class RequestReport:
    """What a selection would do: candidates, bytes to read, peak memory, parameters."""

    strategy: str
    parameters: dict[str, Any]
    seed: int
    budget: int | float
    candidates: int
    labeled: int
    reads: list[str]
    bytes_to_read: int
    peak_memory: int
    threads: int
    spread: str | None = None
    joined: list[str] | None = None
    constraints: dict[str, str] | None = None
    cache: str | None = None

    def rows(self) -> Iterator[Table]:
        """One table for people."""
        parameters = " ".join(f"{name}={plain(v)}" for name, v in self.parameters.items())
        spread = f" --spread {self.spread}" if self.spread else ""
        holds = f", with {', '.join(self.joined)} joined in it" if self.joined else ""
        constraints = (self.constraints or {}).items()
        yield [
            ("strategy", f"{self.strategy}{spread}"),
            ("parameters", parameters or "none"),
            ("seed", self.seed),
            ("budget", amount(self.budget)),
            *(("constraint", f"{said}: {found}") for said, found in constraints),
            ("candidates", f"{self.candidates:,} ({self.labeled:,} labeled)"),
            ("reads", ", ".join(self.reads) or "nothing"),
            ("to read", engine.format_bytes(self.bytes_to_read)),
            ("peak memory", f"about {engine.format_bytes(self.peak_memory)}{holds}"),
            ("threads", self.threads),
            *([("cache", self.cache)] if self.cache else []),
        ]


def describe_request(request: Request, budget: int | float, seed: int) -> RequestReport:
    """Say what a selection would do."""
    given = request.constraints
    k = given.allowed(budget).expected if given else int(budget)
    columns = {**request.columns, **request.spread_columns}
    to_read = sum(column.row_bytes * len(column) for column in columns.values())
    to_read += sum(array.nbytes for array in request.constants.values())
    joins = covering.joins_features(request) if _covers(request) else request.strategy.joins
    joined = [f"/features/{m}" for m in request.pool.names("/features")] if joins else None
    return RequestReport(
        strategy=request.strategy.name,
        parameters=request.parameters,
        seed=seed,
        budget=budget,
        candidates=len(request.candidates),
        labeled=len(request.labeled),
        reads=sorted({*request.reads, *columns}),
        bytes_to_read=to_read,
        peak_memory=_peak_memory(request, k),
        threads=request.engine.threads,
        spread=request.spread,
        joined=joined,
        constraints=dict(feasibility.lines(given, budget)) if given else None,
        cache=_cache(request),
    )


def _covers(request: Request) -> bool:
    return request.strategy.name == "facility" or request.spread == "facility"


def _cache(request: Request) -> str | None:
    """Say what a cache has of this selection, or would get; it takes a pass over the features."""
    if request.engine.cache is None:
        return None
    kept = covering.kept_neighbours(batch_of(request)) if _covers(request) else None
    if kept is None:
        return UNUSED
    file, size = kept
    if file.exists():
        return f"{file}: {engine.format_bytes(file.stat().st_size)} of neighbours to read"
    return f"{file}: {engine.format_bytes(size)} of neighbours to keep"


def _peak_memory(request: Request, k: int) -> int:
    """Estimate the peak of the process's memory."""
    columns = list(request.columns.values())
    # Batch strategies read block by block: two of them, as measured.
    step = task_rows(request) if request.strategy.kind == "score" else 2 * block_rows(request)
    row = sum(column.row_bytes for column in columns)
    locked = sum(column.row_bytes for column in columns if not column.plain)
    chunks = sum(column.row_bytes * column.chunk_end(1) for column in columns if not column.plain)
    piece = min(WINDOW + chunks, request.engine.memory // 2)
    loaded = min(2 * max(piece, locked * step), locked * request.pool.n)
    scratch = request.engine.threads * 3 * step * max(row, 8)
    named = request.pool.n if request.pool.ids.values.dtype.kind == "O" else 0
    per_sample = 8 * (8 + len(columns)) * request.pool.n
    own = request.strategy.footprint(request, k) if request.strategy.footprint else 0
    own += _spread_memory(request, k)
    least = BASE_MEMORY + loaded + scratch + per_sample
    return least + max(READ_NAME * named, KEPT_NAME * named + own)


def _spread_memory(request: Request, k: int) -> int:
    """Estimate what spreading keeps: of D² the picks' features, of facility location all."""
    width = sum(sum(column.shape[1:]) for column in request.spread_columns.values())
    if request.spread == "facility":
        return covering.facility_footprint(request, k)
    return 30_000_000 + 4 * k * width + 90 * len(request.candidates) if request.spread else 0
