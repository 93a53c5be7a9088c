"""Constraints of a selection, in numbers: groups, values and costs of the candidates.

What a user said becomes codes, one for each candidate; what cannot be met is refused here, before
any other number is read, with the arithmetic. :mod:`mmselect.core.constraints` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Array, Floats, Index
from mmselect.constraint import Group, Share, as_texts
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.caps import Cap
from mmselect.core.constraints.quotas import Quotas
from mmselect.core.scores.confidence import top_class
from mmselect.engine import Engine
from mmselect.errors import (
    DataError,
    NeedsError,
    SchemaError,
    SelectionError,
    few,
    located,
    suggestion,
)
from mmselect.option import LONGEST
from mmselect.pool.ids import as_stored
from mmselect.pool.reading import Pool
from mmselect.rows import number

Mask = NDArray[np.bool_]

PREDICTED = "predicted"
"""Stands for the fused head's class where a column is named."""

TINY = 1e-9
"""Below it, what a percentage leaves over is rounding."""


@dataclass(frozen=True)
class Grouped:
    """The values of a column as codes.

    Attributes
    ----------
    codes : (n,) integer array
        Of each candidate.
    values : sequence
        What each code stands for, over all rows of the pool: bytes or numbers.
    """

    codes: Index
    values: Sequence[Any]

    def most(self, limit: float, rows: Mask | None = None) -> int:
        """How many of some rows can be picked, at most `limit` of each value."""
        counts = np.bincount(self.codes if rows is None else self.codes[rows])
        return int(np.minimum(counts, limit).sum())


class Valued(NamedTuple):
    """A share, and which candidates have its value."""

    share: Share
    has: Mask


@dataclass(frozen=True)
class Constraints:
    """The constraints of a request.

    Attributes
    ----------
    asked : tuple of str
        As a user types them.
    n : int
        Candidates.
    file : str
        The pool, to name in errors.
    groups : list of (Group, Grouped)
    at_most, at_least : list of Valued
    balance : list of (column, Grouped)
    cost : str, optional
        The column of the costs.
    costs : (n,) float64 array, optional
    """

    asked: tuple[str, ...]
    n: int
    file: str
    groups: list[tuple[Group, Grouped]]
    at_most: list[Valued]
    at_least: list[Valued]
    balance: list[tuple[str, Grouped]]
    cost: str | None = None
    costs: Floats | None = None

    def allowed(self, budget: float, dealt: Index | None = None) -> Allowed:
        """Make what every greedy asks which candidates are allowed.

        Groups in `dealt`, if it is given, get picks in proportion to their candidates.
        """
        caps = [Cap(grouped.codes, group.limit) for group, grouped in self.groups]
        for share, has in self.at_most:
            codes = np.where(has, 0, -1)
            caps.append(Cap(codes, self.limit(share, budget), self._by_cost(share)))
        return Allowed(
            self.n,
            budget,
            caps=caps,
            quotas=[self._quotas(shares, budget) for shares in by_column(self.at_least)],
            balance=[grouped.codes for _, grouped in self.balance],
            dealt=dealt,
            costs=self.costs,
        )

    def limit(self, share: Share, budget: float) -> float:
        """Most picks with a value, or what they may cost: percentages are rounded down."""
        if share.percent is None:
            return float(share.amount)
        part = budget * share.percent / 100
        return part if self.costs is not None else int(part + TINY)

    def need(self, share: Share, budget: float) -> float:
        """Fewest picks with a value, or what they have to cost: percentages are rounded up."""
        if share.percent is None:
            return float(share.amount)
        part = budget * share.percent / 100
        return part if self.costs is not None else ceil(part - TINY)

    def _by_cost(self, share: Share) -> bool:
        return self.costs is not None and share.percent is not None

    def _quotas(self, shares: Sequence[Valued], budget: float) -> Quotas:
        codes = np.full(self.n, -1)
        for place, (_, has) in enumerate(shares):
            codes[has] = place
        needs = np.array([self.need(share, budget) for share, _ in shares])
        return Quotas(codes, needs, np.array([self._by_cost(share) for share, _ in shares]))

    def shortfalls(self, allowed: Allowed, budget: float) -> list[str]:
        """Say what turned out short."""
        columns, said = by_column(self.at_least), []
        for column, group, missing in allowed.shortfalls():
            share = columns[column][group][0]
            need = self.need(share, budget)
            unit = f" of {self.cost}" if self._by_cost(share) else " picks"
            found = f"reached {amount(need - missing)} of {amount(need)}{unit}"
            said.append(f"at-least {share}: {found}: nothing else that has it is allowed")
        if allowed.balance and allowed.balance.waived:
            names = ", ".join(name for name, _ in self.balance[1:])
            said.append(
                f"balance: {allowed.balance.waived:,} picks are out of balance by {names}: no "
                "candidate was in turn for all balanced columns"
            )
        picked = len(allowed.taken)
        if self.costs is None and picked < budget:
            said.append(f"{picked:,} of {amount(budget)} picked: the constraints allow no other")
        return said


def amount(value: float) -> str:
    """Format a count, or a sum of costs."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def by_column(shares: Sequence[Valued]) -> list[list[Valued]]:
    """Shares of each column together: their values exclude each other."""
    columns = dict.fromkeys(share.column for share, _ in shares)
    return [[valued for valued in shares if valued.share.column == name] for name in columns]


def read(pool: Pool, ask: Any, candidates: Index, engine: Engine) -> Constraints | None:
    """Read the columns that constraints name; None where nothing is asked.

    Raises
    ------
    SelectionError
        For a column or a value that the pool does not have.
    NeedsError
        If ``predicted`` is asked of a pool without a fused head.
    DataError
        For costs that are not finite numbers above 0.
    """
    if not (asked := as_texts(ask)):
        return None
    columns = _Columns(pool, candidates, engine)
    cost = getattr(ask, "cost", None)
    found = Constraints(
        tuple(asked),
        len(candidates),
        pool.files[0],
        [(g, columns.grouped(f"group {g}", g.column)) for g in ask.group or ()],
        [Valued(s, columns.having(f"at-most {s}", s)) for s in ask.at_most or ()],
        [Valued(s, columns.having(f"at-least {s}", s)) for s in ask.at_least or ()],
        [(name, columns.grouped(f"balance {name}", name)) for name in ask.balance or ()],
        cost,
        None if cost is None else read_costs(pool, cost, candidates),
    )
    seen = [(share.column, share.value) for share, _ in found.at_least]
    if twice := next((s for i, s in enumerate(seen) if s in seen[:i]), None):
        raise SelectionError(f"at-least {'='.join(twice)}: expected once, found it twice")
    return found


def read_costs(pool: Pool, column: str, rows: Index) -> Floats:
    """Costs of some rows.

    Raises
    ------
    SelectionError, SchemaError, DataError
        For no such column, one of text, or costs that are not finite numbers above 0.
    """
    path = column_path(pool, f"cost {column}", column)
    values = pool.columns[path][rows]
    with located(file=pool.files[0], dataset=path):
        if values.dtype.kind not in "iufb":
            raise SchemaError(f"cost {column}: expected a column of numbers, found text")
        costs: Floats = values.astype(np.float64)
        if (bad := np.flatnonzero(~(np.isfinite(costs) & (costs > 0)))).size:
            found = f"expected costs above 0, found {costs[bad[0]]:g}"
            raise DataError(f"cost {column}: {found}", rows=rows[bad].tolist())
    return costs


def column_path(pool: Pool, said: str, column: str) -> str:
    """Find a column of the metadata."""
    path, known = f"/metadata/{column}", pool.names("/metadata")
    if path not in pool.columns:
        listed = ", ".join(known) or "none is there"
        message = f"{said}: expected a column of /metadata ({listed}), found {column!r}"
        raise SelectionError(message + suggestion(column, known), file=pool.files[0])
    return path


def numbered(values: Array) -> tuple[Array, Index]:
    """Give each distinct number a code, in ascending order: without a sort where they are dense.

    Parameters
    ----------
    values : (n,) ndarray

    Returns
    -------
    distinct : (m,) ndarray
    codes : (n,) ndarray of int

    Examples
    --------
    >>> numbered(np.array([7, 9, 7]))
    (array([7, 9]), array([0, 1, 0]))
    """
    least, most = (
        (int(values.min()), int(values.max()))
        if values.size and values.dtype.kind in "iu"
        else (0, 0)
    )
    if not 0 < most - least < 4 * len(values) or most > np.iinfo(np.int64).max:
        distinct, codes = np.unique(values, return_inverse=True)
        return distinct, codes
    from_least = values.astype(np.int64) - least
    known = np.zeros(most - least + 1, bool)
    known[from_least] = True
    return np.flatnonzero(known) + least, (np.cumsum(known) - 1)[from_least]


class _Columns:
    """Columns of a pool as codes, each read once."""

    def __init__(self, pool: Pool, candidates: Index, engine: Engine) -> None:
        self.pool, self.candidates, self.engine = pool, candidates, engine
        self.known: dict[str, Grouped] = {}

    def grouped(self, said: str, column: str) -> Grouped:
        """Codes of a column."""
        if column not in self.known:
            read = self._predicted if column == PREDICTED else self._stored
            self.known[column] = read(said, column)
        return self.known[column]

    def having(self, said: str, share: Share) -> Mask:
        """Which candidates have a share's value."""
        grouped = self.grouped(said, share.column)
        if share.column == PREDICTED:
            code = self._class(said, share.value, grouped)
        else:
            code = self._code(said, share, grouped)
        has: Mask = grouped.codes == code
        return has

    def _stored(self, said: str, column: str) -> Grouped:
        values = self.pool.columns[column_path(self.pool, said, column)][:]
        if values.dtype.kind not in "OSU":
            distinct, codes = numbered(values)
            return Grouped(codes[self.candidates], distinct.tolist())
        texts = as_stored(values).tolist()
        numbers = {value: code for code, value in enumerate(dict.fromkeys(texts))}
        codes = np.fromiter(map(numbers.__getitem__, texts), np.intp, len(texts))
        return Grouped(codes[self.candidates], list(numbers))

    def _predicted(self, said: str, _column: str) -> Grouped:
        """Find the fused head's class of each candidate."""
        from mmselect.strategies.gradients import FUSED, lacks_logits, model_of

        sources: dict[str, Any] = {**self.pool.columns, **self.pool.constants}
        if FUSED not in sources and (missing := lacks_logits(set(sources), {}, {})):
            message = f"{said}: predicted needs {FUSED}, which the pool does not have"
            raise NeedsError(f"{message} (nor {few(missing)})", file=self.pool.files[0])
        logits = sources[FUSED] if FUSED in sources else model_of(sources).logits
        with self.pool.located():
            codes = top_class(logits, self.candidates, self.engine, FUSED)
        names = self.pool.constants.get("/class_names")
        values = range(logits.shape[1]) if names is None else as_stored(names).tolist()
        return Grouped(codes, values)

    def _code(self, said: str, share: Share, grouped: Grouped) -> int:
        value: Any = share.value.encode("utf-8", "surrogateescape")
        if grouped.values and not isinstance(grouped.values[0], bytes):
            value = number(self.pool, f"/metadata/{share.column}", said, share.value)
        if value in grouped.values:
            return list(grouped.values).index(value)
        raise self._unknown(f"{said}: expected a value of {share.column}", share.value, grouped)

    def _class(self, said: str, value: str, grouped: Grouped) -> int:
        if (name := value.encode("utf-8", "surrogateescape")) in grouped.values:
            return list(grouped.values).index(name)
        if value.isdecimal() and int(value) < len(grouped.values):
            return int(value)
        expected = f"{said}: expected a class by name or from 0 to {len(grouped.values) - 1}"
        raise self._unknown(expected, value, grouped)

    def _unknown(self, expected: str, value: str, grouped: Grouped) -> SelectionError:
        known = [
            str(v, "utf-8", "replace") if isinstance(v, bytes) else f"{v}" for v in grouped.values
        ]
        message = f"{expected} ({few(known)}), found {value[:LONGEST]!r}{suggestion(value, known)}"
        return SelectionError(message, file=self.pool.files[0])
