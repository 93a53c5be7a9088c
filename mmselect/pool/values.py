"""Which values a pool may hold, by dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.pool.schema import Place


def bad_rows(
    place: Place, block: NDArray[Any], sizes: dict[str, int]
) -> dict[str, NDArray[np.intp]]:
    """Rows of a block that no strategy can use, by what is wrong with them."""
    wrong: dict[str, NDArray[np.bool_]] = {}
    if place.dataset.kind == "float":
        flat = block.reshape(len(block), -1)
        wrong["expected finite numbers, found nan"] = np.isnan(flat).any(axis=1)
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
