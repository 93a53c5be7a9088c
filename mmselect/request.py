"""What is asked of a pool: everything decided, nothing computed.

Strategy and parameters, candidates, budget, what will be read, and what the user should know. A
dry run prints it; :mod:`mmselect.selection` carries it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect import constraining, feasibility
from mmselect.arrays import Array, Index, evenly_spread
from mmselect.ask import Ask, Selecting
from mmselect.constraining import Constraints, amount
from mmselect.engine import Engine, Progress, map_rows
from mmselect.errors import NeedsError, SelectionError, UsageError, few, missing_extra
from mmselect.option import parse_budget
from mmselect.pool.column import Column
from mmselect.pool.presence import PRESENT
from mmselect.pool.reading import Pool
from mmselect.pool.schema import match, modalities_in
from mmselect.pool.values import NEVER_WRITTEN, empty_notices, probability_notices, watched
from mmselect.rows import choose_rows
from mmselect.strategies import registry
from mmselect.strategies.record import Parameters, Strategy
from mmselect.version import __version__
from mmselect.workers import engine_of

FEATURES = "/features"

LOOKED_AT = 64
"""Candidate rows of each logits dataset, in runs of 8, that are looked at for probabilities."""

SAMPLED_BLOCKS, SAMPLED_ROWS = 16, 16
"""Evenly spread blocks of each dataset, and rows in each, that go into a pool's fingerprint."""


@dataclass(frozen=True)
class Request:
    """What is asked of a pool, with everything decided but nothing computed.

    Attributes
    ----------
    strategy, parameters
        The record, and its parameters with defaults filled in.
    spread : str, optional
        How the picks of a score are spread over the features; None: the top of the score.
    candidates, labeled : integer arrays
        Row numbers, increasing.
    reads : list of str
        Datasets that the strategy reads.
    constraints : Constraints, optional
        What is demanded of the picks together.
    asked : dict
        Which rows were asked for, as provenance tells it: lists, conditions, no mask.
    engine : Engine
        Who does the work, with how many threads and how much memory.
    warnings : list of str
        What the user should know; grows while the work is done.
    watches : dict of path to Column
        Columns that were asked for; those of numbers count their empty rows.
    """

    pool: Pool
    strategy: Strategy
    parameters: Parameters
    spread: str | None
    candidates: NDArray[np.intp]
    labeled: NDArray[np.intp]
    reads: list[str]
    engine: Engine
    constraints: Constraints | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    watches: dict[str, Column] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Column]:
        """Per-sample datasets that the strategy reads."""
        return {path: self._watched(path) for path in self.reads if path in self.pool.columns}

    @property
    def spread_columns(self) -> dict[str, Column]:
        """Per-sample datasets over which the picks are spread."""
        paths = [f"{FEATURES}/{name}" for name in self.pool.names(FEATURES)] if self.spread else []
        paths += _masks_of(self.pool, paths)
        return {path: self._watched(path) for path in paths}

    def _watched(self, path: str) -> Column:
        """Take a column whose empty rows are counted while it is read."""
        if path not in self.watches:
            self.watches[path] = watched(self.pool.columns[path])
        return self.watches[path]

    @property
    def notices(self) -> list[str]:
        """What the user should know of this run alone: it is no part of what comes out."""
        return [] if self.engine.cache is None else self.engine.cache.notices

    def empty_rows(self) -> list[str]:
        """Say how many candidates, of those that were read, hold nothing."""
        return empty_notices(self.watches.values(), self.candidates)

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """Other datasets that will be read: the classifier."""
        known = self.pool.constants
        return {path: known[path] for path in self.reads if path in known}


def _masks_of(pool: Pool, paths: Sequence[str]) -> list[str]:
    """Masks of the modalities, of those that datasets are of, that some samples lack."""
    return sorted(f"{PRESENT}/{name}" for name in {*modalities_in(paths)} & pool.present.keys())


class Choice(NamedTuple):
    """A strategy that a pool has the data for, complete parameters, and what the user is told."""

    strategy: Strategy
    parameters: Parameters
    spread: str | None
    warnings: list[str]


def prepare(
    pool: Pool, ask: Ask, scores_only: bool = False, progress: Progress | None = None
) -> Request:
    """Decide everything that can be decided before any number is read; `progress` is told later.

    Raises
    ------
    MmselectError
        If the request cannot be met: unknown strategy, parameter or id, or a missing dataset.
    """
    choice = choose(pool, ask, scores_only)
    reads = choice.strategy.reads(pool.paths, choice.parameters)
    reads += _masks_of(pool, reads)
    warnings = [*choice.warnings, *_notices(pool, reads)]
    labeled, allowed, asked = choose_rows(pool, ask, warnings)
    candidates = np.flatnonzero(allowed)
    engine = engine_of(ask, progress)
    constraints = constraining.read(pool, ask, candidates, engine)
    if constraints and choice.strategy.kind == "batch" and not choice.strategy.constrained:
        message = f"strategy {choice.strategy.name}: knows no constraints"
        raise NeedsError(f"{message}, found {' '.join(constraints.asked)}")
    warnings += _probability_notices(pool, reads, candidates)
    return Request(
        pool=pool,
        strategy=choice.strategy,
        parameters=choice.parameters,
        spread=choice.spread,
        candidates=candidates,
        labeled=np.flatnonzero(labeled),
        reads=reads,
        engine=engine,
        constraints=constraints,
        asked={**asked, "given": _as_given(ask)},
        warnings=warnings,
    )


def _as_given(ask: Ask) -> dict[str, Any]:
    """Tell what was said, before defaults and shares were filled in, so that it can be said again.

    Numbers stand as text, which loses no digit.
    """
    said = {name: getattr(ask, name, None) for name in ("budget", "clip_budget")}
    told = {"parameters": {name: str(value) for name, value in _given(ask).items()}}
    return {**{name: value for name, value in said.items() if value}, **told}


def choose(pool: Pool, ask: Ask, scores_only: bool = False) -> Choice:
    """Find a strategy that this pool has the data for, and complete its parameters.

    Raises
    ------
    UsageError, ParameterError
        For an unknown name, or parameters that do not fit.
    NeedsError
        Naming what the pool lacks, and what would run instead.
    """
    given, spread = _given(ask), getattr(ask, "spread", None)
    if ask.strategy == "auto":
        return _choose_best(pool, given, spread, scores_only)
    record, warnings = registry.find(ask.strategy)
    if (scores_only or spread) and record.kind != "score":
        able = ", ".join(n for n, r in registry.BUILT_IN.items() if r.kind == "score")
        message = f"strategy {record.name}: picks but gives no scores; expected one of {able}"
        raise UsageError(f"spread: {message}") if spread else NeedsError(message)
    resolved = record.resolve(given, pool.modalities)
    if missing := lacking(record, pool, given, spread):
        lacks = f"needs {' and '.join(missing)}, which the pool does not have"
        message = f"strategy {record.name} {lacks}; can run: {', '.join(runnable(pool))}"
        raise NeedsError(message, file=pool.files[0])
    if not record.installed:
        raise NeedsError(missing_extra(f"strategy {record.name}", record.extra, record.extra))
    return Choice(record, resolved, spread, warnings)


def _given(ask: Ask) -> dict[str, Any]:
    """Parameters that were given; ``--activation`` is short for one of them."""
    given, activation = dict(ask.parameters or {}), getattr(ask, "activation", None)
    if activation is not None and given.setdefault("activation", activation) != activation:
        raise UsageError(f"activation: expected one, found {given['activation']} and {activation}")
    return given


def lacking(
    record: Strategy,
    pool: Pool,
    parameters: Mapping[str, Any] | None = None,
    spread: str | None = None,
) -> list[str]:
    """Say what a pool lacks for a strategy with these parameters, the others at their defaults."""
    resolved = record.resolve(parameters or {}, pool.modalities)
    missing = record.lacks(pool.paths, pool.sizes, resolved)
    return missing + ([FEATURES] if spread and not pool.names(FEATURES) else [])


def runnable(pool: Pool) -> list[str]:
    """Names of the built-in strategies that this pool has the data for, with their defaults."""
    return [
        name
        for name, record in registry.BUILT_IN.items()
        if name != "column:NAME" and record.installed and not lacking(record, pool)
    ]


def _choose_best(
    pool: Pool, given: Mapping[str, Any], spread: str | None, scores_only: bool
) -> Choice:
    """Take the first strategy of ``auto`` that this pool has the data for, and say why."""
    passed_over = []
    for name in registry.AUTO_SCORES if scores_only or spread else registry.AUTO:
        record = registry.BUILT_IN[name]
        if missing := lacking(record, pool, spread=spread):
            passed_over.append(f"{name} lacks {few(missing)}")
            continue
        why = "; ".join(passed_over) or "the first choice"
        said = f"strategy auto: {name}{f' --spread {spread}' if spread else ''} ({why})"
        resolved = record.resolve(given, pool.modalities)
        return Choice(record, resolved, spread, [said])
    raise NeedsError(f"strategy auto: nothing can run: {'; '.join(passed_over)}")


def _notices(pool: Pool, reads: Sequence[str]) -> list[str]:
    """Say what a user should know about the pool before the work starts."""
    notices = [f"{name}: not in the format, ignored" for name in pool.unknown] + pool.notices
    packed = [p for p in reads if p in pool.columns and pool.columns[p].compressed]
    if packed:
        notices.append(
            f"{few(packed)}: compressed, so reading runs at the speed of decompression, "
            "some 20 times slower than contiguous storage"
        )
    unwritten = {p: pool.columns[p].unwritten() for p in reads if p in pool.columns}
    return notices + [f"{p}: {NEVER_WRITTEN.format(rows)}" for p, rows in unwritten.items() if rows]


def count_budget(ask: Selecting, request: Request) -> int | float:
    """Turn a budget into a number of picks, or with costs into what all picks may cost.

    Raises
    ------
    SelectionError
        If it is more than the candidates or the constraints allow, and not to be clipped; or if a
        constraint cannot be met.
    """
    budget = _budget(ask, request)
    available = len(request.candidates)
    if available == 0:
        taken = "are labeled or taken away by the lists and conditions"
        message = f"no candidates are left: all {request.pool.n:,} samples {taken}"
        raise SelectionError(message, file=request.pool.files[0])
    if isinstance(budget, int) and budget > available:
        _clip(ask, request, budget, available, f"{available:,} candidates")
        budget = available
    if given := request.constraints:
        most, why = feasibility.clipped(given, budget)
        if most < budget:
            _clip(ask, request, budget, most, f"{amount(most)}: {why}")
            budget = most
        feasibility.check(given, budget)
    return budget


def most_picks(request: Request, budget: int | float) -> int:
    """Bound the picks that a budget allows: it is their number, or with costs their price."""
    given = request.constraints
    return given.allowed(budget).most if given else int(budget)


def _budget(ask: Selecting, request: Request) -> int | float:
    """Read a budget: a share is one of all rows of the pool, or of what they cost."""
    pool, given = request.pool, request.constraints
    if given is None or given.costs is None or given.cost is None:
        return parse_budget(ask.budget, pool.n)
    said = str(ask.budget).strip()
    if said.endswith("%"):
        everything = constraining.read_costs(pool, given.cost, np.arange(pool.n))
        return float(said[:-1]) / 100 * float(everything.sum())
    budget, least = float(said), float(given.costs.min(initial=np.inf))
    if budget < least < np.inf:
        message = f"budget: the cheapest candidate costs {amount(least)} of {given.cost}"
        raise SelectionError(f"{message}, found {amount(budget)}", file=pool.files[0])
    return budget


def _clip(ask: Selecting, request: Request, budget: float, most: float, why: str) -> None:
    """Warn of a budget that is clipped, or refuse it."""
    if not ask.clip_budget or not most:
        message = f"budget: expected at most {why}, found {amount(budget)}"
        raise SelectionError(message, file=request.pool.files[0])
    request.warnings.append(f"budget clipped from {amount(budget)} to the {why}")


def _probability_notices(pool: Pool, paths: Sequence[str], rows: NDArray[np.intp]) -> list[str]:
    """Say which logits look like probabilities: rows in [0, 1] that sum to 1."""
    notices = []
    for path in paths:
        place = match(path)
        if place is None or not place.dataset.is_logits or not len(rows):
            continue
        looked = rows[evenly_spread(len(rows), LOOKED_AT // 8, 8)]
        notices += probability_notices({path: pool.columns[path][looked]})
    return notices


def fingerprint(pool: Pool) -> str:
    """Digest of a pool: sizes, types, ids, and evenly spread rows of every dataset.

    The same for a pool in one file or in shards; cheap however large the pool is.
    """
    digest = hashlib.sha256(f"{pool.n}".encode())
    size = min(SAMPLED_ROWS, pool.n)
    starts = np.unique(np.linspace(0, pool.n - size, SAMPLED_BLOCKS).astype(int))
    sampled = (starts[:, None] + np.arange(size)).ravel()
    for path in sorted(pool.columns):
        column = pool.columns[path]
        digest.update(f"{path} {column.shape} {column.dtype.str}".encode())
        rows, step = (np.arange(pool.n), pool.n) if path == "/id" else (sampled, SAMPLED_ROWS)
        for block in map_rows(_bytes_of_block, [column], rows, step=max(step, 1)):
            digest.update(block)
    for path in sorted(pool.constants):
        digest.update(_bytes_of(pool.constants[path]))
    return f"sha256:{digest.hexdigest()[:32]}"


def _bytes_of_block(_rows: Index, blocks: list[Array]) -> bytes:
    return _bytes_of(blocks[0])


def _bytes_of(values: Array) -> bytes:
    """Bytes of numbers as they are stored; texts with a zero byte between them."""
    return b"\0".join(values.tolist()) if values.dtype.kind == "O" else values.tobytes()


def provenance(request: Request, **more: Any) -> dict[str, Any]:
    """Say what made a result; the same run gives the same words."""
    return {
        "mmselect": __version__,
        "strategy": request.strategy.name,
        "parameters": request.parameters,
        **({"spread": request.spread} if request.spread else {}),
        **more,
        **request.asked,
        "constraints": list(request.constraints.asked) if request.constraints else [],
        "candidates": len(request.candidates),
        "labeled": len(request.labeled),
        "pool": {"paths": request.pool.files, "fingerprint": fingerprint(request.pool)},
        "warnings": list(request.warnings),
    }
