"""What is asked of a pool: everything decided, nothing computed.

Strategy and parameters, candidates, budget, what will be read, and what the user should know. A
dry run prints it; :mod:`mmselect.selection` carries it out.
"""

from __future__ import annotations

import hashlib
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect import engine, lists
from mmselect.ask import Ask, Selecting
from mmselect.errors import MOST_NAMED, NeedsError, SelectionError, UsageError, few
from mmselect.option import LONGEST, Condition, parse_budget
from mmselect.pool.checking import like_probabilities
from mmselect.pool.ids import as_stored
from mmselect.pool.reading import Column, Pool
from mmselect.pool.schema import match
from mmselect.strategies import registry
from mmselect.strategies.record import Parameters, Strategy
from mmselect.version import __version__

Mask: TypeAlias = NDArray[np.bool_]

FEATURES, SPLIT = "/features", "/metadata/split"

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""What each operator of ``--where`` does."""

LOOKED_AT = 64
"""Candidate rows of each logits dataset that are looked at for probabilities."""

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
    asked : dict
        Which rows were asked for, as provenance tells it: lists, conditions, no mask.
    warnings : list of str
        What the user should know; grows while the work is done.
    """

    pool: Pool
    strategy: Strategy
    parameters: Parameters
    spread: str | None
    candidates: NDArray[np.intp]
    labeled: NDArray[np.intp]
    reads: list[str]
    threads: int
    memory: int
    asked: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, Column]:
        """Per-sample datasets that the strategy reads."""
        return {path: self.pool.columns[path] for path in self.reads if path in self.pool.columns}

    @property
    def spread_columns(self) -> dict[str, Column]:
        """Per-sample datasets over which the picks are spread."""
        paths = [f"{FEATURES}/{name}" for name in self.pool.names(FEATURES)] if self.spread else []
        return {path: self.pool.columns[path] for path in paths}

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """Other datasets that will be read: the classifier."""
        known = self.pool.constants
        return {path: known[path] for path in self.reads if path in known}


class Choice(NamedTuple):
    """A strategy that a pool has the data for, complete parameters, and what the user is told."""

    strategy: Strategy
    parameters: Parameters
    spread: str | None
    warnings: list[str]


def prepare(pool: Pool, ask: Ask, scores_only: bool = False) -> Request:
    """Decide everything that can be decided before any number is read.

    Raises
    ------
    MmselectError
        If the request cannot be met: unknown strategy, parameter or id, or a missing dataset.
    """
    choice = choose(pool, ask, scores_only)
    reads = choice.strategy.reads(pool.paths, choice.parameters)
    warnings = [*choice.warnings, *_notices(pool, reads)]
    labeled, allowed, asked = _rows(pool, ask, warnings)
    candidates = np.flatnonzero(allowed)
    warnings += _probability_notices(pool, reads, candidates)
    return Request(
        pool=pool,
        strategy=choice.strategy,
        parameters=choice.parameters,
        spread=choice.spread,
        candidates=candidates,
        labeled=np.flatnonzero(labeled),
        reads=reads,
        threads=engine.thread_count(ask.threads),
        memory=ask.memory,
        asked=asked,
        warnings=warnings,
    )


def _rows(pool: Pool, ask: Ask, warnings: list[str]) -> tuple[Mask, Mask, dict[str, Any]]:
    """Which rows are labeled, which may be picked, and what said so; tell what each list took."""
    labeled, stays = pool.labeled.copy(), dict[str, Mask]()
    asked: dict[str, Any] = {"ignore_mask": True} if ask.ignore_mask else {}
    if ask.ignore_mask:
        count = int(labeled.sum())
        warnings.append(f"ignore-mask: {count:,} rows of the pool's mask do not count as labeled")
        labeled[:] = False
    for option in ("labeled", "exclude", "among"):
        if getattr(ask, option) is not None:
            listed, told = _mask(pool, ask, option, warnings)
            asked.setdefault("lists", {})[option] = told
            stays[option] = listed if option == "among" else ~listed
    for condition in ask.where or ():
        stays[str(condition)] = _fits(pool, condition)
        asked.setdefault("where", []).append("".join(condition))
    allowed = ~labeled
    for what, fits in stays.items():
        count = int((allowed & ~fits).sum())
        warnings.append(f"{what}: {count:,} row{'s'[: count != 1]} taken away")
        allowed &= fits
    warnings += _split_notices(pool, ask, allowed)
    if "labeled" in stays:
        labeled |= ~stays["labeled"]
    return labeled, allowed, asked


def _fits(pool: Pool, condition: Condition) -> Mask:
    """Which rows fulfil a condition on a metadata column."""
    column, sign, value = condition
    if (path := f"/metadata/{column}") not in pool.columns:
        known = ", ".join(pool.names("/metadata")) or "none is there"
        message = f"{condition}: expected a column of /metadata ({known}), found {column!r}"
        raise SelectionError(message, file=pool.files[0])
    values = pool.columns[path][:]
    compare = COMPARE[sign]
    if values.dtype.kind in "OSU":
        if sign not in ("=", "!="):
            message = f"{condition}: expected = or != for a column of text, found {sign!r}"
            raise SelectionError(message, file=pool.files[0], dataset=path)
        found: Mask = compare(as_stored(values), value.encode("utf-8", "surrogateescape"))
        return found.astype(bool)
    with np.errstate(over="ignore"):  # a bound that the column's type cannot hold is infinite
        return np.asarray(compare(values, _number(pool, path, condition)), bool)


def _number(pool: Pool, path: str, condition: Condition) -> int | float:
    """Read the number that a column of numbers is compared with."""
    value = {"true": "1", "false": "0"}.get(condition.value.lower(), condition.value)
    for kind in (int, float):
        try:
            number: int | float = kind(value)
        except ValueError:
            continue
        if abs(number) <= sys.float_info.max:
            return number
    message = f"{condition}: expected a number for a column of numbers, found {value[:LONGEST]!r}"
    raise SelectionError(message, file=pool.files[0], dataset=path)


def _mask(
    pool: Pool, ask: Ask, option: str, warnings: list[str]
) -> tuple[Mask, list[dict[str, Any]]]:
    """Rows that the lists of an option name, and each list as provenance tells it."""
    mask, told = np.zeros(pool.n, bool), []
    for source, names in lists.by_source(
        getattr(ask, option), lambda name: not pool.ids.find([name])[1]
    ):
        rows, missing = pool.ids.find(names)
        if missing:
            near = pool.ids.near(missing[:MOST_NAMED])
            found = lists.unknown(source, names, missing, near)
            if not ask.ignore_unknown:
                message = f"{option}: expected ids of the pool, found {found}"
                raise SelectionError(message, file=pool.files[0])
            warnings.append(f"{option}: ignored {found}")
        mask[rows] = True
        name = {"source": source} if source else {}
        told.append({**name, "ids": len(names), "digest": lists.digest(names)})
    return mask, told


def _split_notices(pool: Pool, ask: Ask, allowed: Mask) -> list[str]:
    """Say that test rows may be picked, unless a condition on the split was given."""
    if SPLIT not in pool.columns or any(c.column == "split" for c in ask.where or ()):
        return []
    values = pool.columns[SPLIT][:]
    if values.dtype.kind not in "OSU":
        return []
    words = as_stored(values)
    count = int((allowed & (words == b"test")).sum())
    rest = "split=train" if (words == b"train").any() else "split!=test"
    said = f"{count:,} of the {int(allowed.sum()):,} candidates are test rows by {SPLIT}"
    return [f"{said}; --where {rest} leaves them out"] if count else []


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
        raise NeedsError(_lacks(pool, record, missing), file=pool.files[0])
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
        if name != "column:NAME" and not lacking(record, pool)
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


def count_budget(ask: Selecting, request: Request) -> int:
    """Turn a budget into a number of picks.

    Raises
    ------
    SelectionError
        If it is more than the candidates, and not to be clipped.
    """
    k = parse_budget(ask.budget, request.pool.n)
    available = len(request.candidates)
    if k <= available:
        return k
    if available == 0:
        message = f"no candidates are left: all {request.pool.n:,} samples are labeled or excluded"
        raise SelectionError(message, file=request.pool.files[0])
    if not ask.clip_budget:
        message = f"budget: expected at most {available:,} candidates, found {k:,}"
        raise SelectionError(message, file=request.pool.files[0])
    request.warnings.append(f"budget clipped from {k:,} to the {available:,} candidates")
    return available


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
        **({"spread": request.spread} if request.spread else {}),
        **more,
        **request.asked,
        "candidates": len(request.candidates),
        "labeled": len(request.labeled),
        "pool": {"paths": request.pool.files, "fingerprint": fingerprint(request.pool)},
        "warnings": list(request.warnings),
    }
