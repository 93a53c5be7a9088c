"""Which values a pool may hold, by dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import LARGEST, finite_halves
from mmselect.errors import DataError
from mmselect.pool.schema import Place, place_of

if TYPE_CHECKING:
    from mmselect.pool.column import Column

PROBABLE = 0.9
"""Share of rows that sum to 1 from which on logits are taken for probabilities."""


def computable(block: NDArray[Any]) -> bool:
    """Whether every number is finite and small enough to compute with: what nearly all blocks are.

    Examples
    --------
    >>> computable(np.array([1, -2], "f2")), computable(np.array([1, -np.inf], "f2"))
    (True, False)
    >>> computable(np.array([1, 1e20]))
    False
    """
    if block.dtype == np.float16 and block.dtype.isnative:
        return finite_halves(block)
    with np.errstate(invalid="ignore"):
        return bool(block.min() >= -LARGEST and block.max() <= LARGEST)  # false for nan


def bad_rows(
    place: Place, block: NDArray[Any], sizes: dict[str, int]
) -> dict[str, NDArray[np.intp]]:
    """Rows of a block that no strategy can use, by what is wrong with them."""
    wrong: dict[str, NDArray[np.bool_]] = {}
    if not block.size:
        return {}
    shares = place.dataset.path == "/label_share"
    if place.dataset.kind == "float" and not shares and computable(block):
        return {}
    if place.dataset.kind == "float":
        flat = block.reshape(len(block), -1)
        wrong["expected finite numbers, found nan"] = np.isnan(flat).any(axis=1)
        with np.errstate(invalid="ignore"):
            top = flat.max(axis=1) if place.dataset.is_logits else np.abs(flat).max(axis=1)
            large = np.isfinite(top) & (np.abs(top) > LARGEST)
        wrong[f"too large: expected up to {LARGEST:.3g}, found a larger number"] = large
        if place.dataset.is_logits:
            wrong["expected finite logits, found +inf"] = (flat == np.inf).any(axis=1)
            masked = (block == -np.inf).all(axis=-1).reshape(len(block), -1).any(axis=1)
            wrong["expected a finite logit, found -inf in every class"] = masked
        else:
            wrong["expected finite numbers, found inf"] = np.isinf(flat).any(axis=1)
        if shares:
            outside = ((flat < 0) | ((flat > 1) & np.isfinite(flat))).any(axis=1)
            wrong["expected shares from 0 to 1, found another number"] = outside
    elif place.dataset.path == "/label":
        c = sizes.get("c", np.iinfo(np.int64).max)
        classes = f"a class from 0 to {c - 1}" if "c" in sizes else "a class"
        expected = f"expected -1 (unknown) or {classes}"
        wrong[f"{expected}, found another number"] = (block < -1) | (block >= c)
    elif place.dataset.kind == "boolean" and block.dtype.kind in "iu":
        wrong["expected 0 or 1, found another number"] = (block < 0) | (block > 1)
    return {kind: np.flatnonzero(mask) for kind, mask in wrong.items() if mask.any()}


def check_values(
    place: Place,
    block: NDArray[Any],
    sizes: dict[str, int],
    present: NDArray[np.bool_] | None = None,
) -> None:
    """Refuse a block with values that no strategy can use, in the rows that are there.

    Raises
    ------
    DataError
        Naming rows of the block.

    Examples
    --------
    >>> check_values(place_of("/features/image"), np.array([[1.0], [np.nan]]), {})
    Traceback (most recent call last):
    mmselect.errors.DataError: row 1: expected finite numbers, found nan
    """
    for problem, rows in bad_rows(place, block, sizes).items():
        if (found := rows if present is None else rows[present[rows]]).size:
            raise DataError(problem, rows=found.tolist())


def narrowed(block: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Turn numbers into floats of another type, which has to have room for them.

    Raises
    ------
    DataError
        Naming rows of the block.

    Examples
    --------
    >>> narrowed(np.array([[1.0], [1e5]]), np.dtype("f2"))
    Traceback (most recent call last):
    mmselect.errors.DataError: row 1: expected numbers that fit float16, found 100000
    """
    with np.errstate(over="ignore", invalid="ignore"):
        out = block.astype(dtype, copy=False)
    if dtype.itemsize < block.dtype.itemsize and not (block.size and computable(out)):
        lost = np.isinf(out) & np.isfinite(block)
        if lost.any():
            rows = np.flatnonzero(lost.reshape(len(lost), -1).any(axis=1))
            message = f"expected numbers that fit {dtype}, found {block[lost].flat[0]:.6g}"
            raise DataError(message, rows=rows.tolist())
    return out


def probability_rows(block: NDArray[Any]) -> int:
    """Count rows of logits that lie in [0, 1] and sum to 1, up to float16's rounding.

    Examples
    --------
    >>> probability_rows(np.array([[0.5, 0.5], [0.0, 0.0], [2.0, -1.0]]))
    1
    """
    with np.errstate(invalid="ignore"):  # what a damaged file holds may be no number at all
        rows = block.astype(np.float64)
        sums = np.isclose(rows.sum(axis=-1), 1, atol=0.02) & (rows >= 0).all(axis=-1)
    return int(sums.reshape(len(block), -1).all(axis=1).sum())


def like_probabilities(block: NDArray[Any]) -> bool:
    """Whether nearly all rows of logits look like probabilities; a few may be anything."""
    return probability_rows(block) >= PROBABLE * len(block)


def probability_notices(blocks: Mapping[str, NDArray[Any]]) -> list[str]:
    """Say which logits, among blocks by dataset path, look like probabilities.

    Examples
    --------
    >>> (said,) = probability_notices({"/multimodal_logits": np.array([[0.5, 0.5]])})
    >>> said[:51]
    '/multimodal_logits: rows lie in [0, 1] and sum to 1'
    """
    looks = "rows lie in [0, 1] and sum to 1, so they look like probabilities"
    return [
        f"{path}: {looks}; export logits, what goes into the softmax"
        for path, block in blocks.items()
        if place_of(path).dataset.is_logits and len(block) and like_probabilities(block)
    ]


NEVER_WRITTEN = "{:,} rows were never written: the file has no numbers for them"
ZERO = "{:,} rows are all zero: never written, or is the modality missing there?"
EQUAL = "{:,} rows have equal logits and so look most unsure: never written, or missing inputs?"
DECLARE = "; if it is missing, say so: /present/{} = false in those rows"
DECLARED_FROM = 0.01
"""Share of such rows from which on the notice says how a missing modality is declared."""


def empty_rows(place: Place, block: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows that hold nothing: features that are all zero, or logits that are all equal.

    Three columns of every row are looked at, and the others only where those agree.

    Examples
    --------
    >>> from mmselect.pool.schema import place_of
    >>> block = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    >>> empty_rows(place_of("/multimodal_logits"), block).tolist()
    [True, False, True]
    """
    if not block.size:
        return np.zeros(len(block), bool)
    flat, logits = block.reshape(len(block), -1), place.dataset.is_logits
    value = flat[:, 0] if logits else flat.dtype.type(0)
    middle = flat[:, flat.shape[1] // 2]
    same: NDArray[np.bool_] = (flat[:, 0] == value) & (flat[:, -1] == value) & (middle == value)
    if (some := np.flatnonzero(same)).size:
        same[some] = (flat[some] == (flat[some, :1] if logits else value)).all(axis=1)
    return same


def empty_notice(place: Place, width: int, count: int, n: int) -> str:
    """Say how many of `n` rows hold nothing; one number, or a tie of two, may be so by chance.

    The logits of the coalition of none are zero in a head without a bias, and so may shares be.
    """
    masked = place.dataset.group == "/coalition_logits" and place.name == "none"
    if not count or masked or place.dataset.group == "/label_share":
        return ""
    many = count > DECLARED_FROM * n
    if width < 3 and not many:
        return ""
    of_one = place.dataset.group in ("/features", "/unimodal_logits")
    declare = DECLARE.format(place.name) if many and of_one else ""
    return (EQUAL if place.dataset.is_logits else ZERO).format(count) + declare


class Watch:
    """Which rows of a dataset, of those read so far, hold nothing; see :func:`empty_rows`.

    Rows that are not `present`, if that is given, are zeros because the modality is missing there.
    """

    def __init__(
        self, place: Place, shape: tuple[int, ...], present: NDArray[np.bool_] | None = None
    ) -> None:
        self.place, self.width, self.present = place, prod(shape[1:]), present
        self.empty = np.zeros(shape[0], bool)

    def see(self, rows: slice | NDArray[np.integer[Any]], block: NDArray[Any]) -> None:
        """Look at `rows`, whose numbers are `block`; a row may be seen again."""
        self.empty[rows] = empty_rows(self.place, block)

    def notice(self, rows: NDArray[np.intp]) -> str:
        """Say how many of `rows` are empty."""
        rows = rows if self.present is None else rows[self.present[rows]]
        return empty_notice(self.place, self.width, int(self.empty[rows].sum()), len(rows))


def watched(column: Column) -> Column:
    """Make a column of numbers whose empty rows are counted while it is read."""
    place = place_of(column.path)
    if place.dataset.kind != "float":
        return column
    return replace(column, watch=Watch(place, column.shape, column.present))


def empty_notices(columns: Iterable[Column], rows: NDArray[np.intp] | None = None) -> list[str]:
    """Say of each watched column how many of `rows`, of those that were read, hold nothing."""
    told = {
        each.path: each.watch.notice(np.arange(len(each)) if rows is None else rows)
        for each in columns
        if each.watch
    }
    return [f"{path}: {said}" for path, said in told.items() if said]
