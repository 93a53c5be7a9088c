"""The one loop over rows: who does the work changes no bit, and failures stop it."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays
from threadpoolctl import threadpool_info

import mmselect
from mmselect.ask import Scoring
from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.gradients import GradientPoints
from mmselect.core.sampling.points import squared_norms
from mmselect.core.scores.coalitions import linear_shapley
from mmselect.embedding import embed
from mmselect.engine import Engine, blas_threads, join_rows, map_rows
from mmselect.errors import DataError, UsageError
from mmselect.pool.checking import check
from mmselect.pool.parts import Stored
from mmselect.request import prepare
from mmselect.scoring import compute_scores
from mmselect.workers import mapper_of


@pytest.fixture(params=["map", "processes"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine whose tasks someone else does, many windows of them."""
    mapper = map if request.param == "map" else mapper_of("processes", 2)
    return Engine(threads=1, memory=300_000, mapper=mapper)


def points() -> GradientPoints:
    rng = np.random.default_rng(0)
    z = {m: rng.standard_normal((3000, 40)).astype("f4") for m in ("a", "b")}
    return GradientPoints(rng.standard_normal((3000, 30)).astype("f4"), z)


def test_every_mapper_gives_the_same_norms_and_picks(engine: Engine) -> None:
    pool = points()
    assert (squared_norms(pool, engine=engine) == squared_norms(pool)).all()
    picked = [
        d2_sample(pool, 50, np.random.default_rng(0), engine=by) for by in (engine, Engine(3))
    ]
    assert (picked[0].indices == picked[1].indices).all()
    assert (picked[0].gains == picked[1].gains).all()


def test_every_mapper_gives_the_same_contributions(engine: Engine) -> None:
    z = {m: x.astype("f2") for m, x in points().features.items()}
    head = {m: np.random.default_rng(1).standard_normal((5, 40)) for m in z}
    expected, pseudo = linear_shapley(z, head)
    found, same = linear_shapley(z, head, engine=engine)
    assert (found == expected).all()
    assert (same == pseudo).all()


@pytest.mark.parametrize("strategy", ["smem", "margin", "contribution"])
def test_every_mapper_gives_the_same_scores(engine: Engine, strategy: str, tmp_path: Any) -> None:
    mmselect.write_pool(tmp_path / "pool.h5", **arrays(900, c=7))
    with mmselect.open_pool(tmp_path / "pool.h5") as pool:
        request = prepare(pool, Scoring(strategy=strategy))
        expected, found = (compute_scores(r) for r in (request, replace(request, engine=engine)))
    assert list(found) == list(expected)
    assert all((found[name] == values).all() for name, values in expected.items())


def test_errors_of_another_process_name_rows(engine: Engine) -> None:
    pool = points()
    pool.features["b"][1234, 5] = np.nan
    with pytest.raises(DataError, match=r"^b: row 1234: expected finite numbers"):
        squared_norms(pool, engine=engine)


class Counted:
    """A source that says which thread read which rows, into which memory."""

    shape, dtype = (1000, 4), np.dtype("f4")

    def __init__(self, plain: bool) -> None:
        self.plain = plain
        self.readers: set[int] = set()
        self.memories: set[int] = set()
        self.announced: list[tuple[int, int]] = []

    def __getitem__(self, index: slice) -> np.ndarray:
        self.readers.add(threading.get_ident())
        return np.arange(4000, dtype="f4").reshape(1000, 4)[index]

    def read(self, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        self.memories.add(out.__array_interface__["data"][0])
        out[:] = self[slice(start, stop)]
        return out

    def announce(self, start: int, stop: int) -> None:
        self.announced.append((start, stop))


def block_sum(rows: np.ndarray, blocks: list[np.ndarray], alive: Any = None) -> float:
    if alive is not None:
        alive.wait(timeout=10)  # until every thread has a block
    return float(blocks[0].sum()) + rows[0]


def test_threads_read_their_own_blocks_into_the_same_memory() -> None:
    source = Counted(plain=True)
    function = partial(block_sum, alive=threading.Barrier(2))
    found = list(map_rows(function, [source], np.arange(1000), step=10, engine=Engine(2)))
    assert found == list(map_rows(block_sum, [np.asarray(source[:])], np.arange(1000), step=10))
    assert len(source.readers) == 2  # one of them is the calling thread
    assert len(source.memories) == 2
    assert source.announced == [(0, 1000)]


def test_other_sources_are_read_by_the_calling_thread() -> None:
    source = Counted(plain=False)
    rows = np.arange(0, 1000, 2)
    engine = Engine(2, memory=2 * 16 * 100)
    found = list(map_rows(block_sum, [source], rows, step=10, engine=engine))
    assert found == list(map_rows(block_sum, [np.asarray(source[:])], rows, step=10))
    assert source.readers == {threading.get_ident()}
    assert not source.memories
    assert source.announced[:2] == [(0, 399), (400, 599)]


def test_no_rows_still_have_columns() -> None:
    rows = np.empty(0, np.intp)
    results = map_rows(lambda at, x: (x[0], at), [np.ones((5, 3))], rows, step=2)
    block, at = join_rows(results, 0)
    assert block.shape == (0, 3)
    assert at.dtype == np.intp


def blas() -> set[int]:
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_blas_has_one_thread_inside_and_what_it_had_after() -> None:
    with blas_threads(2):
        before = blas()
        inside = list(map_rows(lambda rows, _: blas(), [np.ones((4, 1))], np.arange(4), step=2))
        assert inside == [{1}, {1}]
        with blas_threads():
            list(Engine(1).map(abs, [1]))
            assert blas() == {1}
        assert blas() == before


def test_threads_that_are_kept_are_idle_after_an_error() -> None:
    running, began = threading.Semaphore(0), threading.Event()
    done: list[int] = []

    def work(task: int) -> int:
        if task == 0:
            began.wait(10)  # until another thread is in the middle of a task
            raise ValueError("task 0")
        began.set()
        running.acquire(timeout=0.2)
        done.append(task)
        return threading.get_ident()

    with Engine(threads=3).keeping_threads() as engine:
        with pytest.raises(ValueError, match="task 0"):
            list(engine.map(work, range(8)))
        before = list(done)
        assert list(engine.map(lambda task: task * task, range(20))) == [i * i for i in range(20)]
        assert done == before  # what had begun was waited for, and nothing else began
        assert engine == Engine(threads=3)


def test_what_is_no_engine() -> None:
    for wrong in ({"threads": 0}, {"threads": -2}, {"memory": 0}):
        with pytest.raises(UsageError, match="expected at least 1"):
            Engine(**wrong)


def test_embeddings_do_not_depend_on_threads_or_memory(tmp_path: Path) -> None:
    mmselect.write_pool(tmp_path / "pool.h5", **arrays(900, c=7))
    found = []
    for threads, memory in ((1, "1GB"), (3, "1")):
        seen: list[tuple[int, int]] = []
        target = tmp_path / f"{threads}.h5"
        embed(
            tmp_path / "pool.h5",
            target,
            form="full",
            threads=threads,
            memory=memory,
            progress=lambda *done, seen=seen: seen.append(done),
        )
        assert seen[-1][0] == seen[-1][1]
        with h5py.File(target) as handle:
            found.append(handle["embedding"][:])
    assert len(found[0])
    assert (found[0] == found[1]).all()


def test_check_finds_the_same_whatever_the_memory(tmp_path: Path) -> None:
    pool = tmp_path / "pool.h5"
    mmselect.write_pool(pool, **arrays(9000, c=7))
    with h5py.File(pool, "a") as handle:
        for row in (5, 8999):
            handle["features/image"][row] = np.nan
        handle["features/text"][7] = 0
    findings = [check([pool], Engine(memory=memory)) for memory in (1, 10**9)]
    problems, warnings = ([*map(str, part)] for part in findings[0])
    assert problems == [
        f"{pool}: /features/image: rows 5, 8999: expected finite numbers, found nan"
    ]
    assert any(f"{pool}: /features/text: 1 rows are all zero" in line for line in warnings)
    assert [*map(str, findings[1].problems)] == problems
    assert findings[1].warnings == warnings


@pytest.mark.parametrize("chunk", [(7, 3), (40, 8), (450, 8), (1000, 8)])
def test_no_chunk_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int]
) -> None:
    """Whatever the windows and the blocks, and with rows left out."""
    x = np.arange(8000.0).reshape(1000, 8)
    with h5py.File(tmp_path / "pool.h5", "w") as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.0")
        handle.create_dataset("features/a", data=x, chunks=chunk, compression="gzip")
    read: list[tuple[int, int]] = []
    plain = Stored.read

    def seen(self: Stored, start: int, stop: int, out: Any = None) -> Any:
        read.append((start, stop))
        return plain(self, start, stop, out)

    monkeypatch.setattr(Stored, "read", seen)
    monkeypatch.setattr("mmselect.tasks.WINDOW", 64 * 120)
    every, keep = np.arange(1000), lambda rows, blocks: (rows, blocks[0].copy())
    with mmselect.open_pool(tmp_path / "pool.h5") as pool:
        column = pool.columns["/features/a"]
        for rows in (every, every[every % 100 > 30], every[::9]):
            for memory in (1 << 20, 64 * 32):
                read.clear()
                blocks = map_rows(keep, [column], rows, step=16, engine=Engine(2, memory))
                found = [np.concatenate(part) for part in zip(*blocks, strict=True)]
                assert np.array_equal(found[0], rows) and np.array_equal(found[1], x[rows])
                touched = [c for a, b in read for c in range(a // chunk[0], -(-b // chunk[0]))]
                if memory == 1 << 20:
                    assert len(touched) == len({*touched}), read
                elif len(rows) > 500:  # of few rows, whole chunks are read at once
                    assert max(b - a for a, b in read) <= 2 * 32
        assert len(read) > 1
