"""Who does the work changes no byte: processes, and workers of a cluster that open shards alone."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import arrays
from machines_work import aligned, die_once, divide_or_die

import mmselect
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.neighbours import nearest_neighbours
from mmselect.core.presence import patterns_of
from mmselect.core.unit_rows import unit_rows
from mmselect.engine import Engine, map_rows
from mmselect.errors import EngineError, FormatError
from mmselect.pool import column
from mmselect.replay.workers import run_tasks
from mmselect.strategies import registry
from mmselect.workers import disconnect, mapper_of

pytestmark = pytest.mark.xdist_group("machines")  # one process has the cluster and the workers


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two workers of dask on this machine; the address of their scheduler."""
    distributed = pytest.importorskip("distributed")
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(**how) as made:
        yield f"dask={made.scheduler_address}"
        disconnect()


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Two workers of ray on this machine, started when they are first used, and ended here."""
    pytest.importorskip("ray", reason="ray is not installed; CI does that in a step of its own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # so that they find machines_work
        yield
        disconnect()


@pytest.fixture(params=["processes", "dask", "ray"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("mmselect.tasks.SENT", 4000)  # many tasks of small pools
    name: str = request.param
    if name == "ray":
        request.getfixturevalue("ray")
    return request.getfixturevalue("cluster") if name == "dask" else name


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """The same rows in one file, and in two shards in folders of their own."""
    folder = tmp_path_factory.mktemp("pools")
    given = arrays(400, c=7)
    given["features"]["text"][5:9] = 0
    given["present"] = {"image": np.arange(400) % 5 > 0}
    for name in ("features", "unimodal_logits"):
        given[name]["image"][::5] = np.nan
    mmselect.write_pool(folder / "whole.h5", **given)
    shards = []
    for name, part in (("a", slice(0, 150)), ("b", slice(150, 400))):
        (folder / name).mkdir()
        shards.append(folder / name / "shard.h5")
        mmselect.write_pool(shards[-1], **cut(given, part))
    return [folder / "whole.h5"], shards


def cut(given: dict[str, Any], part: slice) -> dict[str, Any]:
    """Some rows of all that has rows."""
    whole = ("classifier_weight", "classifier_bias", "class_names")

    def rows(value: Any) -> Any:
        return {k: v[part] for k, v in value.items()} if isinstance(value, dict) else value[part]

    return {name: x if name in whole else rows(x) for name, x in given.items()}


COMMANDS = [
    ("score", "-s", "smem"),
    ("score", "-s", "contribution"),
    ("score", "-s", "alignment"),
    ("select", "-s", "bmmal", "-b", 30),
    ("select", "-s", "badge", "-b", 30, "--at-most", "predicted=class 1:2"),
    ("select", "-s", "margin", "--spread", "d2", "-b", 30),
    ("select", "-s", "facility", "-b", 30),
    ("select", "-p", "form=sparse", "-p", "neighbours=9", "-s", "facility", "-b", 30),
    ("select", "-s", "mmcsal", "-b", 30),
    ("select", "-s", "alfa-mix", "-b", 30),
    ("info", "--format", "text"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(map(str, c[:3])))
def test_same_bytes(engine: str, pools: tuple[list[Path], list[Path]], command, cli) -> None:
    """Of one file by threads, and of two shards by others; `info` names files and their sizes."""
    name, *rest = command
    expected = cli(name, *pools[name == "info"], *rest)
    assert expected.code == 0
    assert cli(name, *pools[1], *rest, "--engine", engine, "--threads", 2) == expected


def test_exact_facility_from_the_file(engine: str, pools, cli, monkeypatch) -> None:
    """Features above the memory are read by workers themselves: the same bytes as held."""
    monkeypatch.setattr("mmselect.core.coverage.exact.MATRIX_BYTES", 0)
    asked = ("-s", "facility", "-b", 30, "-p", "form=exact")
    expected = cli("select", *pools[0], *asked)
    how = ("--memory", "4kB", "--engine", engine, "--threads", 2)
    assert expected.code == 0
    assert cli("select", *pools[1], *asked, *how) == expected


def test_check_and_embed_and_nearest(engine: str, pools, cli, tmp_path: Path) -> None:
    how = ["--engine", engine, "--threads", 2]
    assert cli("check", *pools[1], *how) == cli("check", *pools[1])
    for number, more in enumerate(([], how)):
        target = tmp_path / f"{number}.h5"
        assert cli("embed", *pools[1], "-o", target, *more).code == 0
        near = tmp_path / f"{number}.csv"
        asked = ["-s", "bmmal", "-b", 9, "--nearest", near]
        assert cli("select", *pools[1], *asked, *more).code == 0
    assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()


def test_neighbours_in_lists(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are sent features in the order of the lists, all or some, and find the same."""
    monkeypatch.setattr("mmselect.core.coverage.neighbours.FLAT_UP_TO", 1000)
    monkeypatch.setattr("mmselect.core.coverage.inverted.LISTED", 300)  # many tasks
    rows = unit_rows({"a": np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)})
    pairs = patterns_of({"a": np.arange(3000) % 3 > 0}, ["a", "b"], 3000).pairs()
    workers = Engine(2, mapper=mapper_of(engine, 2))
    by_threads, by_others, in_parts = (
        nearest_neighbours(x, 20, by, pairs, 30_000)
        for x, by in ((rows.whole(), Engine(2)), (rows.whole(), workers), (rows, workers))
    )
    assert "inverted lists" in by_others[2] == by_threads[2]
    for found in (by_others, in_parts):
        assert found[0].tobytes() == by_threads[0].tobytes()
        assert found[1].tobytes() == by_threads[1].tobytes()


def test_verifying_passes(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes over all pairs, without a matrix of them, by workers: the same picks and gains."""
    monkeypatch.setattr("mmselect.core.coverage.exact.MATRIX_BYTES", 0)
    rng, passes = np.random.default_rng(0), list[Any]()
    x, weights = rng.standard_normal((2500, 6)).astype(np.float32), rng.random(2500)

    def mapper(function: Any, tasks: Any) -> Any:
        passes.append(function)
        return mapper_of(engine, 2)(function, tasks)

    by_threads, by_others = (
        facility({"a": x}, 60, weights=weights, engine=Engine(2, mapper=by))
        for by in (None, mapper)
    )
    assert passes
    assert by_others.picks.tolist() == by_threads.picks.tolist()
    assert by_others.gains.tobytes() == by_threads.gains.tobytes()


def test_arrays_are_aligned(engine: str) -> None:
    """What is held and what is sent with a task: last bits of products depend on it."""
    x = np.zeros((3001, 5))
    work, by = partial(aligned, [x, x[:17]]), Engine(1, mapper=mapper_of(engine, 2))
    assert all(map_rows(work, [x], np.arange(3001), step=16, engine=by))


def test_provenance_is_the_same(engine: str, pools) -> None:
    made = [
        mmselect.select(pools[0], "bmmal", 20, engine=by, threads=2).provenance
        for by in ("threads", engine)
    ]
    assert json.dumps(made[0]) == json.dumps(made[1])
    assert any("zero" in line for line in made[0]["warnings"])  # of rows that workers read


def test_a_bad_row_is_named_as_ever(engine: str, tmp_path: Path, cli) -> None:
    given = arrays(300)
    given["multimodal_logits"][221] = np.nan
    mmselect.write_pool(tmp_path / "a.h5", **cut(given, slice(0, 50)))
    mmselect.write_pool(tmp_path / "b.h5", **cut(given, slice(50, 300)))
    asked = ["score", tmp_path / "a.h5", tmp_path / "b.h5", "-s", "margin"]
    found = cli(*asked, "--engine", engine, "--threads", 2)
    assert found == cli(*asked)
    assert found.code == 1 and "b.h5: /multimodal_logits: row 171: " in found.err


def test_a_killed_worker(engine: str, pools, tmp_path: Path) -> None:
    """The work is done by others, or the run ends with one clear error."""
    by = Engine(1, mapper=mapper_of(engine, 2))
    with mmselect.open_pool(pools[1]) as pool:
        column = [pool.columns["/multimodal_logits"]]
        dies = partial(die_once, str(tmp_path / "dead"))
        how: dict[str, Any] = {"step": 16, "rows": np.arange(400)}
        expected = list(map_rows(partial(die_once, __file__), column, **how))
        try:
            assert list(map_rows(dies, column, engine=by, **how)) == expected
        except EngineError as error:
            assert "a worker was lost" in str(error)
            assert "\n" not in str(error)
        assert (tmp_path / "dead").exists()
        assert list(map_rows(dies, column, engine=by, **how)) == expected  # and goes on


def test_other_numbers_of_workers_in_one_process(engine: str) -> None:
    for count in (2, 1, 2):
        assert [*mapper_of(engine, count)(abs, range(-3, 3))] == [3, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("more", [["--rounds", 1, "-s", "badge,random"], ["--rounds", 0]])
def test_replays(engine: str, pools, cli, tmp_path: Path, more: list[object]) -> None:
    """Runs are the same, and kept as those of one process are: nothing is played again."""
    asked = ["replay", *pools[1], "-b", 9, "--seeds", 1, *more, "-q"]
    expected = cli(*asked)
    assert expected.code == 0
    elsewhere = [*asked, "--engine", engine, "-j", 2, "--runs", tmp_path]
    assert cli(*elsewhere) == expected
    assert len(list(tmp_path.iterdir())) == (2 if more[1] else 1)
    assert cli(*asked, "--runs", tmp_path) == expected


def test_a_worker_killed_in_a_replay(engine: str, tmp_path: Path) -> None:
    work = partial(divide_or_die, str(tmp_path / "dead"), 12)
    tasks = [(i,) for i in (1, 2, 3, 4)]
    expected = [(0, 12), (1, 6), (2, 4), (3, 3)]
    try:
        assert sorted(run_tasks(work, tasks, 2, engine)) == expected
    except EngineError as error:
        assert "a worker was lost" in str(error)
    assert (tmp_path / "dead").exists()
    assert sorted(run_tasks(work, tasks, 2, engine)) == expected


def test_commands_train_here(pool: Path, cli, tmp_path: Path) -> None:
    asked = ["replay", pool, "--train", "cp {labeled} {out}", "--runs", tmp_path / "runs"]
    found = cli(*asked, "--engine", "dask")
    assert found.code == 2 and "engine: expected processes, since commands" in found.err


def deadly(arrays: Any, parameters: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_is_left_half_written(pools, tmp_path: Path, cli, monkeypatch) -> None:
    record = replace(registry.BUILT_IN["margin"], function=deadly)
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "margin": record})
    (tmp_path / "out.csv").write_text("old")
    asked = ["score", *pools[0], "-s", "margin", "-o", tmp_path / "out.csv"]
    found = cli(*asked, "--engine", "processes", "--threads", 2)
    assert found.code == 1 and found.out == ""
    assert found.err.startswith("error: ") and "a worker was lost: " in found.err
    assert found.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_worker_refuses_files_that_are_not_the_same(tmp_path: Path) -> None:
    mmselect.write_pool(tmp_path / "a.h5", **arrays(20))
    with mmselect.open_pool(tmp_path / "a.h5") as pool:
        sent = pickle.dumps(pool.columns["/features/image"])
        assert len(sent) < 1000  # names, no rows
        assert (pickle.loads(sent)[3:5] == pool.columns["/features/image"][3:5]).all()
    mmselect.write_pool(tmp_path / "a.h5", **arrays(30))
    forget()
    with pytest.raises(FormatError, match=r"a\.h5: a worker finds another file"):
        pickle.loads(sent)
    (tmp_path / "a.h5").unlink()
    with pytest.raises(FormatError, match=r"a\.h5: a worker finds no such file"):
        pickle.loads(sent)


def forget() -> None:
    """Forget what this process has opened for others."""
    column._open.clear()
    gc.collect()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("thread", "did you mean 'threads'"),
        ("threads=2", "expected dask=SCHEDULER or ray=ADDRESS"),
        ("dask=", "expected dask=SCHEDULER or ray=ADDRESS"),
    ],
)
def test_what_is_no_engine(pool: Path, cli, said: str, why: str) -> None:
    found = cli("score", pool, "--engine", said)
    assert found.code == 2 and why in found.err


def test_what_an_engine_needs(pool: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in (("dask", "distributed"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, module, None)
        found = cli("score", pool, "--engine", f"{name}=nowhere:1")
        assert found.code == 1 and f"pip install 'mmselect[{name}]'" in found.err


@pytest.mark.parametrize(
    ("library", "name", "at"),
    [("distributed", "dask", "tcp://127.0.0.1:9"), ("ray", "ray", "127.0.0.1:9")],
)
def test_no_scheduler(
    library: str, name: str, at: str, pool: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    disconnect()
    monkeypatch.setattr("mmselect.workers.CONNECT", 0.3)
    found = cli("score", pool, "--engine", f"{name}={at}")
    assert found.code == 1
    assert re.search(f"expected a (scheduler|cluster) at {at}, found none", found.err)
