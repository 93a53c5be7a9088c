"""Which numbers a pool may hold."""

from __future__ import annotations

import numpy as np
import pytest

from mmselect.pool.schema import place_of
from mmselect.pool.values import bad_rows, computable


def test_every_float16_is_told_by_its_bits() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(every)
    assert [computable(every[i : i + 1]) for i in range(len(every))] == finite.tolist()
    assert computable(every[finite]) and computable(every[finite].astype(">f2"))
    assert not computable(every.astype(">f2"))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("path", ["/features/a", "/multimodal_logits"])
def test_a_bad_number_is_found_wherever_it_stands(path: str, value: float, dtype: str) -> None:
    block = np.ones((4, 3), dtype)
    assert bad_rows(place_of(path), block, {}) == {}
    block[2, 1] = value
    masked = path == "/multimodal_logits" and value == -np.inf  # a class that is ruled out
    found = [rows.tolist() for rows in bad_rows(place_of(path), block, {}).values()]
    assert found == ([] if masked else [[2]])
