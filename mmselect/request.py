"""What is asked of a pool: everything decided, nothing computed.

Strategy and parameters, candidates, budget, what will be read, and what the user should know. A
dry run prints it; :mod:`mmselect.selection` carries it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect import engine
from mmselect.errors import BudgetError, NeedsError, SelectionError, UsageError, few
from mmselect.pool.checking import like_probabilities
from mmselect.pool.reading import Column, Pool
from mmselect.pool.schema import match
from mmselect.strategies import registry
from mmselect.strategies.record import Parameters, Strategy
from mmselect.version import __version__

LOOKED_AT = 64
"""Candidate rows of each logits dataset that are looked at for probabilities."""

FEW_LABELS = 10
"""Labeled samples per class below which a strategy that looks at features alone did better than
the first choice of ``auto`` on real pools (``docs/evidence.md``)."""

SAMPLED_BLOCKS, SAMPLED_ROWS = 16, 16
"""Evenly spread blocks of each dataset, and rows in each, that go into a pool's fingerprint."""


@dataclass(frozen=True)
class Request:
    """What is asked of a pool, with everything decided but nothing computed.

    Attributes
    ----------
    strategy, parameters
        The record, and its parameters with defaults filled in.
    candidates, labeled : integer arrays
        Row numbers, increasing.
    reads : list of str
        Datasets that will be read.
    warnings : list of str
        What the user should know; grows while the work is done.
    """

    pool: Pool
    strategy: Strategy
    parameters: Parameters
    candidates: NDArray[np.intp]
    labeled: NDArray[np.intp]
    reads: list[str]
    threads: int
    memory: int
    warnings: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, Column]:
        """Per-sample datasets that will be read."""
        return {path: self.pool.columns[path] for path in self.reads if path in self.pool.columns}

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """Other datasets that will be read: the classifier."""
        known = self.pool.constants
        return {path: known[path] for path in self.reads if path in known}


def prepare(
    pool: Pool,
    strategy: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    activation: str | None = None,
    labeled: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    among: Sequence[str] | None = None,
    ignore_unknown: bool = False,
    threads: int | None = None,
    memory: int = engine.DEFAULT_MEMORY,
    scores_only: bool = False,
) -> Request:
    """Decide everything that can be decided before any number is read; for parameters see `score`.

    Raises
    ------
    MmselectError
        If the request cannot be met: unknown strategy, parameter or id, or a missing dataset.
    """
    threads = engine.thread_count(threads)
    given = dict(parameters or {})
    if activation is not None and given.setdefault("activation", activation) != activation:
        raise UsageError(f"activation: expected one, found {given['activation']} and {activation}")
    record, resolved, warnings = choose(pool, strategy, given, scores_only)
    reads = record.reads(pool.paths, resolved)
    warnings += _notices(pool, reads)
    mask = pool.labeled
    if labeled is not None:
        mask = _mask(pool, labeled, "labeled", ignore_unknown, warnings)
    allowed = ~mask
    if exclude is not None:
        allowed &= ~_mask(pool, exclude, "exclude", ignore_unknown, warnings)
    if among is not None:
        allowed &= _mask(pool, among, "among", ignore_unknown, warnings)
    candidates = np.flatnonzero(allowed)
    if strategy == "auto" and not scores_only:
        warnings += _few_labels(pool, record, int(mask.sum()))
    warnings += _probability_notices(pool, reads, candidates)
    return Request(
        pool=pool,
        strategy=record,
        parameters=resolved,
        candidates=candidates,
        labeled=np.flatnonzero(mask),
        reads=reads,
        threads=threads,
        memory=memory,
        warnings=warnings,
    )


def choose(
    pool: Pool, name: str, given: Mapping[str, Any], scores_only: bool = False
) -> tuple[Strategy, Parameters, list[str]]:
    """Find a strategy that this pool has the data for, and complete its parameters.

    Raises
    ------
    UsageError, ParameterError
        For an unknown name, or parameters that do not fit.
    NeedsError
        Naming what the pool lacks, and what would run instead.
    """
    if name == "auto":
        return _choose_best(pool, given, scores_only)
    record, warnings = registry.find(name)
    if scores_only and record.kind != "score":
        able = ", ".join(n for n, r in registry.BUILT_IN.items() if r.kind == "score")
        raise NeedsError(f"strategy {name}: picks but gives no scores; expected one of {able}")
    resolved = record.resolve(given, pool.modalities)
    if missing := record.lacks(pool.paths, pool.sizes, resolved):
        raise NeedsError(_lacks(pool, record, missing), file=pool.files[0])
    return record, resolved, warnings


def lacking(record: Strategy, pool: Pool, parameters: Mapping[str, Any] | None = None) -> list[str]:
    """Say what a pool lacks for a strategy with these parameters, the others at their defaults."""
    return record.lacks(pool.paths, pool.sizes, record.resolve(parameters or {}, pool.modalities))


def runnable(pool: Pool) -> list[str]:
    """Names of the built-in strategies that this pool has the data for, with their defaults."""
    return [
        name
        for name, record in registry.BUILT_IN.items()
        if name != "column:NAME" and not lacking(record, pool)
    ]


def _choose_best(
    pool: Pool, given: Mapping[str, Any], scores_only: bool
) -> tuple[Strategy, Parameters, list[str]]:
    passed_over = []
    for name, preset in registry.AUTO:
        record = registry.BUILT_IN[name]
        if scores_only and record.kind != "score":
            continue
        if strange := [p for p in given if p not in record.parameter_names(pool.modalities)]:
            passed_over.append(f"{name} takes no {few(strange)}")
            continue
        if missing := lacking(record, pool, preset):
            lack = f"lacks {few(missing)}"
            passed_over.append(" ".join([name, *(f"{k}={v:g}" for k, v in preset.items()), lack]))
            continue
        set_to = "".join(f" -p {k}={v:g}" for k, v in preset.items())
        why = f"{set_to} ({'; '.join(passed_over)})" if passed_over else ", the first choice"
        resolved = record.resolve({**preset, **given}, pool.modalities)
        return record, resolved, [f"strategy auto: {name}{why}"]
    raise NeedsError(f"strategy auto: nothing can run: {'; '.join(passed_over)}")


def _few_labels(pool: Pool, record: Strategy, labeled: int) -> list[str]:
    """Say that with so few labels something else may be the better choice."""
    other, per_class = registry.BUILT_IN["facility"], labeled / pool.sizes.get("c", 1)
    if record is other or per_class >= FEW_LABELS or lacking(other, pool):
        return []
    better = f"below {FEW_LABELS}, {other.name} did better on real pools (docs/evidence.md)"
    return [f"{per_class:.1f} labeled samples per class: {better}"]


def _lacks(pool: Pool, record: Strategy, unmet: Sequence[str]) -> str:
    missing = " and ".join(unmet)
    others = ", ".join(runnable(pool))
    return (
        f"strategy {record.name} needs {missing}, which the pool does not have; can run: {others}"
    )


def _notices(pool: Pool, reads: Sequence[str]) -> list[str]:
    """Say what a user should know about the pool before the work starts."""
    notices = [f"{name}: not in the format, ignored" for name in pool.unknown]
    packed = [p for p in reads if p in pool.columns and pool.columns[p].compressed]
    if packed:
        notices.append(
            f"{few(packed)}: compressed, so reading runs at the speed of decompression, "
            "some 20 times slower than contiguous storage"
        )
    return notices


def _mask(
    pool: Pool, names: Sequence[str], option: str, ignore_unknown: bool, warnings: list[str]
) -> NDArray[np.bool_]:
    """Rows that a list of ids names."""
    rows, missing = pool.ids.find([str(name) for name in names])
    if missing and not ignore_unknown:
        found = f"found {len(missing):,} unknown: {few(missing)}"
        raise SelectionError(f"{option}: expected ids of the pool, {found}", file=pool.files[0])
    if missing:
        warnings.append(f"{option}: {len(missing):,} unknown ids ignored: {few(missing)}")
    mask = np.zeros(pool.n, bool)
    mask[rows] = True
    return mask


def count_budget(budget: int | str, request: Request, clip: bool = False) -> int:
    """Turn a budget into a number of picks.

    Raises
    ------
    BudgetError
        If it is neither a count of at least 1 nor a share in (0 %, 100 %].
    SelectionError
        If it is more than the candidates and `clip` is false.
    """
    k = parse_budget(budget, request.pool.n)
    available = len(request.candidates)
    if k <= available:
        return k
    if available == 0:
        message = f"no candidates are left: all {request.pool.n:,} samples are labeled or excluded"
        raise SelectionError(message, file=request.pool.files[0])
    if not clip:
        message = f"budget: expected at most {available:,} candidates, found {k:,}"
        raise SelectionError(message, file=request.pool.files[0])
    request.warnings.append(f"budget clipped from {k:,} to the {available:,} candidates")
    return available


def parse_budget(budget: int | str, n: int) -> int:
    """Read a budget for a pool of `n` rows: a count, or a share of all rows.

    Raises
    ------
    BudgetError
        If it is neither a count of at least 1 nor a share in (0 %, 100 %].

    Examples
    --------
    >>> parse_budget("2.5%", 1000), parse_budget(40, 1000), parse_budget("0.01%", 1000)
    (25, 40, 1)
    """
    text = str(budget).strip()
    share = text.endswith("%")
    try:
        number = float(text[:-1]) if share else int(text.replace("_", ""))
    except ValueError:
        number = 0
    if not (0 < number <= 100 if share else number >= 1):
        expected = "a count of at least 1, or a share above 0% and up to 100%"
        raise BudgetError(f"budget: expected {expected}, found {text!r}")
    return max(int(n * number / 100 + 1e-9), 1) if share else int(number)


def _probability_notices(pool: Pool, paths: Sequence[str], rows: NDArray[np.intp]) -> list[str]:
    """Say which logits look like probabilities: rows in [0, 1] that sum to 1."""
    notices = []
    for path in paths:
        place = match(path)
        if place is None or not place.dataset.is_logits or pool.sizes["c"] < 2 or not len(rows):
            continue
        if like_probabilities(pool.columns[path][rows[:LOOKED_AT]]):
            notices.append(
                f"{path}: rows lie in [0, 1] and sum to 1, so they look like probabilities; "
                "export logits, what goes into the softmax"
            )
    return notices


def fingerprint(pool: Pool) -> str:
    """Digest of a pool: sizes, types, ids, and evenly spread rows of every dataset.

    The same for a pool in one file or in shards; cheap however large the pool is.
    """
    digest = hashlib.sha256(f"{pool.n}".encode())
    for path in sorted(pool.columns):
        column = pool.columns[path]
        digest.update(f"{path} {column.shape} {column.dtype.str}".encode())
        starts = np.linspace(0, max(pool.n - SAMPLED_ROWS, 0), SAMPLED_BLOCKS).astype(int)
        whole = path == "/id"
        for start in [0] if whole else np.unique(starts).tolist():
            block = column.read(start, pool.n if whole else min(start + SAMPLED_ROWS, pool.n))
            text = block.dtype.kind == "O"
            digest.update(b"\0".join(block.tolist()) if text else block.tobytes())
    for path in sorted(pool.constants):
        values = pool.constants[path]
        text = values.dtype.kind == "O"
        digest.update(b"\0".join(values.tolist()) if text else values.tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"


def provenance(request: Request, **more: Any) -> dict[str, Any]:
    """Say what made a result; the same run gives the same words."""
    return {
        "mmselect": __version__,
        "strategy": request.strategy.name,
        "parameters": request.parameters,
        **more,
        "candidates": len(request.candidates),
        "labeled": len(request.labeled),
        "pool": {"paths": request.pool.files, "fingerprint": fingerprint(request.pool)},
        "warnings": list(request.warnings),
    }
