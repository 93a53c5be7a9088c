"""Which values a pool may hold, by dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import LARGEST
from mmselect.pool.schema import Place

PROBABLE = 0.9
"""Share of rows that sum to 1 from which on logits are taken for probabilities."""


def bad_rows(
    place: Place, block: NDArray[Any], sizes: dict[str, int]
) -> dict[str, NDArray[np.intp]]:
    """Rows of a block that no strategy can use, by what is wrong with them."""
    wrong: dict[str, NDArray[np.bool_]] = {}
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
    elif place.dataset.path == "/label":
        c = sizes.get("c", np.iinfo(np.int64).max)
        classes = f"a class from 0 to {c - 1}" if "c" in sizes else "a class"
        expected = f"expected -1 (unknown) or {classes}"
        wrong[f"{expected}, found another number"] = (block < -1) | (block >= c)
    elif place.dataset.kind == "boolean" and block.dtype.kind in "iu":
        wrong["expected 0 or 1, found another number"] = (block < 0) | (block > 1)
    return {kind: np.flatnonzero(mask) for kind, mask in wrong.items() if mask.any()}


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


ALL_MASKED = "/coalition_logits/none"
"""Without a bias its logits are zero, as they should be."""

NEVER_WRITTEN = "{:,} rows were never written: the file has no numbers for them"
ZERO = "{:,} rows are all zero: never written, or is the modality missing there?"
EQUAL = "{:,} rows have equal logits and so look most unsure: never written, or missing inputs?"


class Watch:
    """Which rows, of those read so far, hold nothing: features of zero, or logits all equal.

    It looks at three columns of every row, and at the others only where those agree.

    Parameters
    ----------
    place : Place
        Where the dataset stands in the format.
    n : int
        Rows of the pool.

    Examples
    --------
    >>> from mmselect.pool.schema import place_of
    >>> watch = Watch(place_of("/multimodal_logits"), 3)
    >>> watch.see(slice(0, 3), np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]]))
    >>> watch.empty.tolist()
    [True, False, True]
    """

    def __init__(self, place: Place, n: int) -> None:
        self.logits, self.width = place.dataset.is_logits, 0
        self.empty = np.zeros(n, bool)

    def see(self, rows: slice | NDArray[np.intp], block: NDArray[Any]) -> None:
        """Look at `rows`, whose numbers are `block`; a row may be seen again."""
        flat = block.reshape(len(block), -1)
        self.width = flat.shape[1]
        value = flat[:, 0] if self.logits else flat.dtype.type(0)
        same = (flat[:, 0] == value) & (flat[:, -1] == value) & (flat[:, self.width // 2] == value)
        if (some := np.flatnonzero(same)).size:
            first = flat[some, :1] if self.logits else value
            same[some] = (flat[some] == first).all(axis=1)
        self.empty[rows] = same

    def notice(self, rows: NDArray[np.intp]) -> str:
        """Say how many of `rows` are empty; one number, or a tie of two, may be by chance."""
        count = int(self.empty[rows].sum())
        if not count or (self.width < 3 and count <= len(rows) / 100):
            return ""
        return EQUAL.format(count) if self.logits else ZERO.format(count)
