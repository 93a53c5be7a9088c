"""Neighbours do not depend on how much is held, which is bounded."""

import tracemalloc

import h5py
import numpy as np
import pytest

import mmselect
from mmselect.core.coverage import inverted, neighbours
from mmselect.core.coverage.neighbours import nearest_neighbours
from mmselect.core.presence import blanked, patterns_of
from mmselect.core.unit_rows import unit_rows
from mmselect.engine import Engine


@pytest.fixture
def halves() -> dict[str, np.ndarray]:
    """Features in float16, some of which are copies."""
    rng = np.random.default_rng(4)
    centres, label = rng.standard_normal((2, 30, 40)), rng.integers(0, 30, 3000)
    found = {}
    for name, centre in zip("ab", centres, strict=True):
        found[name] = (centre[label] + 0.5 * rng.standard_normal((3000, 40)) + 1).astype(np.float16)
        found[name][::17] = found[name][3]
    return found


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(("exhaustive", "count"), [(True, 20), (False, 20), (False, 900)])
def test_neighbours_do_not_depend_on_what_is_held(
    monkeypatch, halves, exhaustive: bool, count: int, complete: bool
):
    monkeypatch.setattr(neighbours, "FLAT_UP_TO", 3000 if exhaustive else 1000)
    monkeypatch.setattr(neighbours, "TRAINING", 8)
    monkeypatch.setattr(inverted, "LISTED", 500)
    monkeypatch.setattr(inverted, "PRODUCTS", 1 << 18)
    has = {} if complete else {"a": np.arange(3000) % 5 > 0}
    pairs = None if complete else patterns_of(has, ["a", "b"], 3000).pairs()
    every = unit_rows(blanked(halves, has), center=True, present=has)
    size = 4 * every.shape[0] * every.shape[1]
    similar, found, name = nearest_neighbours(every.whole(), count, Engine(1), pairs)
    assert ("exhaustive" in name) == exhaustive
    assert (similar == -np.inf).any() == (count == 900)
    for threads, room in ((3, size), (1, size // 3), (2, size // 10), (1, 1)):
        again = nearest_neighbours(every, count, Engine(threads), pairs, room)
        assert again[0].tobytes() == similar.tobytes() and again[1].tobytes() == found.tobytes()


@pytest.mark.parametrize("stored", ["contiguous", "compressed"])
def test_sparse_facility_holds_what_fits_into_memory(tmp_path, monkeypatch, halves, stored: str):
    """Rows that are made at a time, and all that NumPy allocates: those and blocks."""
    monkeypatch.setattr("mmselect.tasks.keep_freed_memory", lambda: None)  # never touched
    monkeypatch.setattr(neighbours, "FLAT_UP_TO", 1000)
    monkeypatch.setattr(neighbours, "TRAINING", 2)
    monkeypatch.setattr(inverted, "LISTED", 128)
    monkeypatch.setattr(inverted, "QUERIES", 128)
    monkeypatch.setattr(inverted, "PRODUCTS", 1 << 16)
    wide = {name: np.tile(x, (1, 20)) for name, x in halves.items()}
    path, every = tmp_path / "pool.h5", 4 * 3000 * 1600
    mmselect.write_pool(path, features=wide)
    if stored == "compressed":
        with h5py.File(path, "a") as file:
            for name, x in wide.items():
                del file[f"features/{name}"]
                file.create_dataset(f"features/{name}", data=x, compression="gzip")
    held, in_lists = list[int](), inverted._in_lists

    def watched(*given):
        held.append((rows := in_lists(*given)).nbytes)
        return rows

    monkeypatch.setattr(inverted, "_in_lists", watched)
    given = {"form": "sparse", "neighbours": 20, "center": False}
    how = {"parameters": given, "threads": 1}
    as_stored, blocks = every // 2 if stored == "compressed" else 0, 6_000_000
    picks = list[list[str]]()
    for memory in (every, every // 4, every // 8):
        held.clear()
        tracemalloc.start()
        picks.append(list(mmselect.select(path, "facility", 60, memory=memory, **how).ids))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert max(held) <= memory and sum(held) == every
        assert memory == every or peak < as_stored + memory + blocks
    assert picks[0] == picks[1] == picks[2]
