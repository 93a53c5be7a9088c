"""Same pool, options and seed: the same bytes, whatever threads, memory, sharding or storage."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import WITHOUT_EXTRAS, arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmselect
from mmselect import tasks

N = 700
CONSTANT = ("classifier_weight", "classifier_bias", "class_names")


def cut(whole: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: part(each) for name, each in value.items()}
        return value[start:stop]

    return {name: v if name in CONSTANT else part(v) for name, v in whole.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "pool.h5"
    mmselect.write_pool(path, **arrays(N, c=130))
    return path


def chunked(path: Path) -> None:
    """Store every matrix in chunks that fit no block."""
    with h5py.File(path, "r+") as handle:
        for name in ("multimodal_logits", "unimodal_logits/image", "features/text"):
            values = handle[name][()]
            del handle[name]
            handle.create_dataset(name, data=values, chunks=(min(37, len(values)), values.shape[1]))


@pytest.fixture(scope="module")
def expected(whole: Path) -> dict[str, str]:
    found = {}
    for name in WITHOUT_EXTRAS:
        found[name] = digest_of_picks(whole, name, threads=1)
    found["score"] = digest(mmselect.score(whole, "smem", threads=1).score)
    return found


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:12]


def digest_of_picks(pool: Any, name: str, **how: Any) -> str:
    picks = mmselect.select(pool, name, 40, seed=1, **how)
    return f"{picks.ids[0]} {digest(picks.indices)} {digest(picks.scores)}"


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    threads=st.integers(1, 4),
    memory=st.sampled_from([1, 40_000, 10**9]),
    edges=st.lists(st.integers(0, N), max_size=3).map(sorted),
    in_chunks=st.booleans(),
)
def test_nothing_changes_a_byte(
    tmp_path: Path,
    expected: dict[str, str],
    threads: int,
    memory: int,
    edges: list[int],
    in_chunks: bool,
    monkeypatch_module: None,
) -> None:
    data = arrays(N, c=130)
    ends = [0, *edges, N]
    paths = []
    for i, (start, stop) in enumerate(pairwise(ends)):
        paths.append(tmp_path / f"{i}.h5")
        mmselect.write_pool(paths[-1], **cut(data, start, stop))
        if in_chunks and stop > start:
            chunked(paths[-1])
    how = {"threads": threads, "memory": memory}
    found = {name: digest_of_picks(paths, name, **how) for name in expected if name != "score"}
    found["score"] = digest(mmselect.score(paths, "smem", **how).score)
    assert found == expected


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    """Make compute blocks small, so that this small pool has many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "COMPUTE_BLOCK_ELEMENTS", 16 * 130)
        yield


def test_chunks_do_not_change_the_order_of_columns(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "chunked.h5"
    path.write_bytes(whole.read_bytes())
    chunked(path)
    expected, found = (mmselect.score(each, "smem").components for each in (whole, path))
    assert list(found) == list(expected)


def test_candidates_do_not_change_a_score(whole: Path) -> None:
    every = mmselect.score(whole, "smem")
    some = every.ids[5:400:7]
    few = mmselect.score(whole, "smem", among=some)
    assert few.ids == some
    assert np.array_equal(few.score, every.score[5:400:7])
