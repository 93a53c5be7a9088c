"""Bad input: one line that says where, expected and found; the right exit code; nothing written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import LISTENING, arrays

import mmselect
from mmselect import files
from mmselect.pool import storage


def put(name: str, values: Any, **attributes: Any) -> Callable[[Path], None]:
    """Make a change that stores `values` under a path of the pool."""

    def change(pool: Path) -> None:
        with h5py.File(pool, "r+") as handle:
            if name in handle:
                del handle[name]
            handle[name] = values
            handle[name].attrs.update(attributes)

    return change


def poke(name: str, row: int, value: Any) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        with h5py.File(pool, "r+") as handle:
            handle[name][row] = value

    return change


def attribute(**values: str) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        with h5py.File(pool, "r+") as handle:
            handle.attrs.update(values)

    return change


def drop(*names: str) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        with h5py.File(pool, "r+") as handle:
            for name in names:
                del handle[name]

    return change


def virtual(pool: Path) -> None:
    layout = h5py.VirtualLayout((60, 5), "f4")
    layout[:] = h5py.VirtualSource("gone.h5", "x", (60, 5))
    with h5py.File(pool, "r+") as handle:
        del handle["multimodal_logits"]
        handle.create_virtual_dataset("multimodal_logits", layout)


def link(pool: Path) -> None:
    with h5py.File(pool, "r+") as handle:
        handle["multimodal_logits"] = h5py.ExternalLink("../away.h5", "x")


POOLS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not HDF5": (
        lambda pool: pool.write_text("no pool"),
        "pool.h5: expected an HDF5 file, found something else",
    ),
    "truncated": (
        lambda pool: pool.write_bytes(pool.read_bytes()[:-9]),
        "pool.h5: truncated: expected ",
    ),
    "no format": (
        lambda pool: attribute(format="other")(pool),
        "pool.h5: expected attribute format = 'mmselect-pool', found 'other'",
    ),
    "wrong version": (
        attribute(format_version="2.0"),
        "pool.h5: expected format version 1.x, found 2.0",
    ),
    "missing dataset": (
        drop("multimodal_logits"),
        "pool.h5: strategy entropy needs /multimodal_logits, which the pool does not have; "
        "can run: random, bald",
    ),
    "row counts": (
        put("multimodal_logits", np.zeros((59, 5), "f4")),
        "pool.h5: /multimodal_logits: expected 60 rows, as in /id, found 59",
    ),
    "class counts": (
        put("classifier/bias", np.zeros(4)),
        "pool.h5: /classifier/bias: expected 5 classes, as in /unimodal_logits/image, found 4",
    ),
    "axes": (
        put("multimodal_logits", np.zeros(60)),
        "pool.h5: /multimodal_logits: expected axes (n, c), found shape (60,)",
    ),
    "strings": (
        put("multimodal_logits", [["a"] * 5] * 60),
        "/multimodal_logits: expected floats (float16, float32 or float64), found text",
    ),
    "integers": (
        put("multimodal_logits", np.zeros((60, 5), int)),
        "/multimodal_logits: expected floats (float16, float32 or float64), found int64",
    ),
    "group for dataset": (
        lambda pool: (drop("multimodal_logits")(pool), put("multimodal_logits/x", 1)(pool)),
        "/multimodal_logits: expected a dataset, found a group",
    ),
    "nan": (
        poke("multimodal_logits", 31, np.nan),
        "pool.h5: /multimodal_logits: row 31: expected finite logits, found nan",
    ),
    "+inf": (
        poke("multimodal_logits", (31, 2), np.inf),
        "pool.h5: /multimodal_logits: row 31: expected finite logits, found +inf",
    ),
    "-inf": (
        poke("multimodal_logits", slice(31, 34), -np.inf),
        "/multimodal_logits: rows 31, 32, 33: expected finite logits, found -inf in every class",
    ),
    "duplicate ids": (
        poke("id", 8, "s005"),
        "pool.h5: /id: row 8: expected unique ids, found 's005' again",
    ),
    "virtual source": (
        virtual,
        "/multimodal_logits: virtual dataset's source 'gone.h5', which does not exist",
    ),
    "external link": (
        lambda pool: (drop("multimodal_logits")(pool), link(pool)),
        "/multimodal_logits: external link to '../away.h5', which is not beside the pool",
    ),
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("command", ["select", "score"])
def test_a_pool_that_cannot_be_used(pool: Path, cli, tmp_path: Path, case: str, command) -> None:
    change, said = POOLS[case]
    change(pool)
    target = tmp_path / "picks.txt"
    target.write_text("before")
    more = ["-b", 5] if command == "select" else []
    for output in ([], ["-o", target]):
        found = cli(command, pool, "-s", "entropy", *more, *output)
        assert (found.code, found.out) == (1, "")
        assert found.err.startswith("error: ") and said in found.err
        assert found.err.count("\n") == 1
    assert target.read_text() == "before"
    assert {p.name for p in tmp_path.iterdir()} == {"pool.h5", "picks.txt"}


def test_a_row_nobody_asked_for_may_be_broken(pool: Path, cli) -> None:
    poke("multimodal_logits", 0, np.nan)(pool)  # row 0 is labeled
    assert cli("select", pool, "-s", "entropy", "-b", 5).code == 0


USAGE = {
    ("-b", "0"): "budget: expected a count of at least 1, or a share above 0% and up to 100%",
    ("-b", "-1"): "budget: expected a count of at least 1",
    ("-b", "0%"): "budget: expected a count of at least 1",
    ("-b", "101%"): "budget: expected a count of at least 1",
    ("-b", "abc"): "budget: expected a count of at least 1, or a share above 0% and up to 100%, "
    "found 'abc'",
    ("-b", "nan%"): "budget: expected a count",
    ("-b", "1.5"): "budget: expected a count",
    (): "Missing option '--budget'",
    ("-b", "5", "-s", "entropi"): "strategy: expected one of random, ",
    ("-b", "5", "-s", "smem", "-p", "delta=1"): "strategy smem: expected one of preset, ",
    ("-b", "5", "-s", "smem", "-p", "beta=-1"): "beta: expected a number of at least 0, found '-1'",
    ("-b", "5", "-s", "smem", "-p", "beta=inf"): "beta: expected a number of at least 0",
    ("-b", "5", "-s", "smem", "-p", "beta"): "-p: expected NAME=VALUE, found 'beta'",
    ("-b", "5", "-s", "smem", "-p", "beta=1", "-p", "beta=2"): "-p: expected beta once",
    ("-b", "5", "-s", "smem", "-p", "preset=all"): "preset: expected full or jsd or entropies",
    ("-b", "5", "-s", "smem", "-p", "alpha.sound=1"): "expected one of the pool's modalities "
    "(image, text), found modality 'sound' in 'alpha.sound'",
    ("-b", "5", "-s", "smem", "-p", "alpha.text=0.5", "-p", "alpha.image=0.6"): "alpha: expected "
    "weights that sum to 1, found alpha.image=0.6 + alpha.text=0.5 = 1.1",
    ("-b", "5", "-s", "smem", "-p", "alpha.text=1.5"): "alpha: expected weights that sum to 1",
    (
        "-b",
        "5",
        "-s",
        "random",
        "--activation",
        "softmax",
    ): "strategy random: expected no parameters",
    ("-b", "5", "--activation", "tanh"): "activation: expected softmax or sigmoid-norm",
    ("-b", "5", "--format", "xml"): "format: expected one of ids, indices",
    ("-b", "5", "--threads", "0"): "threads: expected a whole number of at least 1, found '0'",
    ("-b", "5", "--memory", "lots"): "memory: expected an amount such as 4GB",
    ("-b", "5", "--exclude", "-", "--among", "-"): "expected one list from standard input, found "
    "--exclude, --among",
    ("-b", "5", "--bugdet", "5"): "No such option: --bugdet",
}


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_usage_errors(pool: Path, cli, arguments: tuple[str, ...]) -> None:
    found = cli("select", pool, *arguments)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: ") and USAGE[arguments] in found.err
    assert found.err.count("\n") == 1


def test_more_than_the_candidates(pool: Path, cli) -> None:
    found = cli("select", pool, "-b", 51)
    assert (found.code, found.out) == (1, "")
    assert "pool.h5: budget: expected at most 50 candidates, found 51" in found.err
    clipped = cli("select", pool, "-b", 51, "--clip-budget")
    assert clipped.code == 0 and len(clipped.out.split()) == 50
    assert "budget clipped from 51 to the 50 candidates" in clipped.err


def test_ids_that_the_pool_does_not_have(pool: Path, cli, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("s001\nx1\nx2\nx3\nx4\nx5\nx6\n")
    for option in ("--exclude", "--among", "--labeled"):
        found = cli("select", pool, "-b", 1, option, ids)
        assert (found.code, found.out) == (1, "")
        name = option.removeprefix("--")
        said = f"found 6 unknown in {ids}: x1, x2, x3, x4, x5 and 1 more"
        said = f"{name}: expected ids of the pool, {said}"
        assert said in found.err
        skipped = cli("select", pool, "-b", 1, option, ids, "--ignore-unknown", "-s", "random")
        assert skipped.code == 0 and f"{name}: ignored 6 unknown in {ids}: x1" in skipped.err


def test_a_list_that_cannot_be_read(pool: Path, cli, tmp_path: Path) -> None:
    found = cli("select", pool, "-b", 1, "--exclude", tmp_path / "none.txt")
    assert (found.code, found.out) == (1, "")
    assert "none.txt: cannot be read: no such file or directory" in found.err


def test_output_folder_missing_or_closed(pool: Path, cli, tmp_path: Path) -> None:
    found = cli("select", pool, "-b", 1, "-q", "-o", tmp_path / "no" / "picks.txt")
    assert (found.code, found.out) == (1, "")
    assert f"cannot be written: folder '{tmp_path / 'no'}' does not exist" in found.err
    found = cli("select", pool, "-b", 1, "-q", "-o", tmp_path)
    assert found.code == 1 and "expected a file to write, found a folder" in found.err


def test_the_pool_is_never_written_over(pool: Path, cli, tmp_path: Path) -> None:
    before = pool.read_bytes()
    link = tmp_path / "link.h5"
    link.symlink_to(pool)
    for output in (pool, link):
        for command in (["select", "-b", 1], ["score"], ["embed"]):
            found = cli(command[0], pool, *command[1:], "-o", output)
            assert (found.code, found.out) == (1, "")
            assert "expected a file of its own, found the pool" in found.err
    found = cli("select", pool, "-b", 1, "-o", "a.txt", "--nearest", "./a.txt")
    assert found.code == 1 and "found another output" in found.err
    assert pool.read_bytes() == before


def test_a_shard_given_twice(pool: Path, cli) -> None:
    found = cli("select", pool, pool, "-b", 1)
    assert found.code == 1 and "expected every shard once, found it twice" in found.err
    assert "expected every shard once, found it twice" in cli("check", pool, pool).out


def test_output_not_writable(pool: Path, cli, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "picks.txt"
    target.write_text("before")
    # root may write anything, so the system's answer is put in its mouth
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    found = cli("select", pool, "-b", 1, "-q", "-o", target)
    assert (found.code, found.out) == (1, "")
    assert "picks.txt: cannot be written: permission denied" in found.err
    assert target.read_text() == "before"


@pytest.mark.parametrize("form", ["ids", "csv", "npy"])
def test_disk_full_leaves_the_target(pool: Path, cli, tmp_path: Path, monkeypatch, form) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "picks.txt"
    target.write_text("before")
    monkeypatch.setattr(files.os, "fsync", full)
    found = cli("select", pool, "-b", 1, "-q", "-o", target, "--format", form)
    assert (found.code, found.out) == (1, "")
    assert "picks.txt: cannot be written: no space left on device" in found.err
    assert target.read_text() == "before"
    assert {p.name for p in tmp_path.iterdir()} == {"pool.h5", "picks.txt"}


def test_a_full_device(pool: Path, cli) -> None:
    found = cli("select", pool, "-b", 9, "-q", "-o", "/dev/full")
    assert found.code == 1 and "/dev/full: cannot be written: no space left" in found.err


def test_a_full_disk_while_a_pool_is_written(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(mmselect.MmselectError, match="no space left on device"):
        mmselect.write_pool(tmp_path / "pool.h5", **arrays())
    assert list(tmp_path.iterdir()) == []


def test_standard_output_full(pool: Path) -> None:
    command = f"{sys.executable} -m mmselect select {pool} -b 5 -q > /dev/full"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == "error: standard output: cannot be written: no space left on device\n"


def test_probabilities_are_warned_of(pool: Path, cli) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), 60)
    put("multimodal_logits", p.astype("f4"))(pool)
    found = cli("select", pool, "-s", "entropy", "-b", 5)
    assert found.code == 0 and len(found.out.split()) == 5
    assert "/multimodal_logits: rows lie in [0, 1] and sum to 1" in found.err
    assert "/multimodal_logits" in cli("check", pool).err


def test_compression_is_told(pool: Path, cli) -> None:
    x = arrays()["multimodal_logits"]
    with h5py.File(pool, "r+") as handle:
        del handle["multimodal_logits"]
        handle.create_dataset("multimodal_logits", data=x, compression="gzip")
    assert "/multimodal_logits: compressed" in cli("select", pool, "-s", "entropy", "-b", 5).err


def test_a_column_of_text_or_nan_does_not_rank(pool: Path, cli) -> None:
    found = cli("select", pool, "-s", "column:caption", "-b", 5)
    assert found.code == 1 and "/metadata/caption: expected a column of numbers" in found.err
    poke("metadata/loss", 7, np.nan)(pool)
    found = cli("select", pool, "-s", "column:loss", "-b", 5)
    assert (
        found.code == 1 and "/metadata/loss: row 7: expected finite numbers, found nan" in found.err
    )
    found = cli("select", pool, "-s", "column:lost", "-b", 5)
    assert found.code == 1 and "needs /metadata/lost" in found.err


def test_write_pool_refuses_what_the_format_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    x = np.zeros((3, 2))
    for given, said in (
        ({"features": {"my image": x}}, "/features/my image: expected a name of"),
        ({"features": {"none": x}}, "/features/none: expected a name of"),
        (
            {"features": {"a": x, "b": x[:2]}},
            "/features/b: expected 3 rows, as in /features/a, found 2",
        ),
        ({"features": {"a": x.astype(int)}}, "/features/a: expected floats"),
        ({"features": {"a": x}, "ids": ["u", "v", "u"]}, "/id: row 2: expected unique ids"),
        (
            {"features": {"a": x}, "ids": ["u", "", "w"]},
            "/id: row 1: expected printable UTF-8 text",
        ),
        (
            {"features": {"a": x}, "ids": ["u", "v\nw", "w"]},
            "/id: row 1: expected printable UTF-8 text",
        ),
        ({"features": {"a": x[0]}}, r"expected axes \(n, d\), found shape \(2,\)"),
        ({"coalition_logits": {"b+a": x}}, "/coalition_logits/b\\+a: expected a name"),
        ({}, "expected at least one array"),
    ):
        with pytest.raises(mmselect.MmselectError, match=said):
            mmselect.write_pool(path, **given)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(pool: Path, tmp_path: Path) -> None:
    """Stop a select that has begun to write: its pipe of ids never ends until it is told to."""
    target = tmp_path / "scores.csv"
    target.write_text("before")
    code = (
        f"{LISTENING}"
        "import os, sys, time\n"
        "from mmselect.output import emitting\n"
        "def slowly(result, pool, how):\n"
        "    yield b'half a line'\n"
        "    print('writing', file=sys.stderr, flush=True)\n"
        "    while True:\n"  # a signal just before a long sleep would be heard after it
        "        time.sleep(0.01)\n"
        "emitting.SCORE_FORMS['csv'] = emitting.Form(slowly, ('.csv',))\n"
        "from mmselect.cli import run\n"
        f"sys.exit(run(['score', {str(pool)!r}, '-s', 'smem', '-o', {str(target)!r}]))\n"
    )
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == "writing\n"
        time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == expected
        assert "Traceback" not in err
        assert err == ("error: interrupted\n" if expected == 130 else "")
        assert target.read_text() == "before"
        assert {p.name for p in tmp_path.iterdir()} == {"pool.h5", "scores.csv"}


def test_what_a_pool_lacks_is_told_before_it_is_tried(tmp_path: Path, cli) -> None:
    x, rng = arrays(), np.random.default_rng(0)
    path = tmp_path / "a.h5"
    weights = {"image": x["classifier_weight"]["image"]}
    mmselect.write_pool(
        path,
        features=x["features"],
        classifier_weight=weights,
        multimodal_logits=x["multimodal_logits"],
    )
    found = cli("select", path, "-s", "bmmal", "-b", 3)
    assert found.code == 1 and "a.h5: strategy bmmal needs /classifier/weight/text" in found.err
    assert "/classifier/weight/text: missing" in cli("check", path).out
    assert "strategy auto: facility" in cli("select", path, "-b", 3).err
    assert cli("info", path).code == 0
    uneven = {"image": rng.standard_normal((9, 3)), "text": rng.standard_normal((9, 2))}
    mmselect.write_pool(path, features=uneven)
    said = "modalities of one width in /features (found image 3, text 2; mmselect align"
    for command in (["select", "-s", "mmcsal", "-b", 3], ["score", "-s", "alignment"]):
        assert said in cli(command[0], path, *command[1:]).err
    lines = cli("info", path).out.splitlines()
    able = next(line for line in lines if line.startswith("can run"))
    assert "mmcsal" not in able and "facility" in able


def test_info_shows_what_it_can_before_a_broken_row(pool: Path, cli) -> None:
    poke("features/image", 31, np.nan)(pool)
    found = cli("info", pool)
    assert found.code == 1 and "samples         60" in found.out and "can run" in found.out
    assert "pool.h5: /features/image: row 31: " in found.err


def test_empty_axes_are_refused(pool: Path, tmp_path: Path, cli) -> None:
    with h5py.File(pool, "r+") as handle:
        del handle["features/image"]
        handle["features/image"] = np.zeros((60, 0), "f4")
    found = cli("info", pool)
    assert found.code == 1 and "/features/image: expected axes (n, d) of at least 1" in found.err
    with pytest.raises(mmselect.MmselectError, match="of at least 1"):
        mmselect.write_pool(tmp_path / "b.h5", features={"image": np.zeros((3, 0))})


def test_infinity_is_not_ranked_and_never_in_json(pool: Path, cli) -> None:
    poke("metadata/loss", 7, np.inf)(pool)
    found = cli("select", pool, "-s", "column:loss", "-b", 5)
    assert (
        found.code == 1 and "/metadata/loss: row 7: expected finite numbers, found inf" in found.err
    )
    found = cli("select", pool, "-s", "random", "-b", 50, "--format", "label-studio")
    assert "Infinity" not in found.out and found.out.count('"loss": null') == 1


def test_nothing_left_to_pick(pool: Path, cli, tmp_path: Path) -> None:
    every = tmp_path / "ids.txt"
    every.write_text("\n".join(arrays()["ids"]))
    for more in ([], ["--clip-budget"]):
        found = cli("select", pool, "-b", 1, "--exclude", every, *more)
        assert (found.code, found.out) == (1, "")
        assert "no candidates are left: all 60 samples are labeled or taken away" in found.err


def test_outputs_are_checked_before_the_work(pool: Path, cli, tmp_path: Path) -> None:
    nearest = tmp_path / "n.csv"
    found = cli("select", pool, "-b", 3, "--nearest", nearest, "-o", tmp_path / "no" / "p.txt")
    assert found.code == 1 and not nearest.exists()
    assert cli("select", pool, "-b", 3, "--nearest", "-").code == 2
    assert cli("embed", pool, "-o", "-").code == 2
    found = cli("select", pool, "-b", 3, "-s", "entropy", "--nearest", nearest, "--dry-run")
    assert found.code == 1 and "expected one of badge, bmmal" in found.err


def test_python_takes_integer_ids_and_refuses_odd_seeds(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    mmselect.write_pool(path, ids=np.arange(10, 20), features={"image": np.eye(10)})
    picks = mmselect.select(path, "random", 8, labeled=[10, 19])
    assert not {"10", "19"} & set(picks.ids)
    with pytest.raises(mmselect.MmselectError, match="seed: expected"):
        mmselect.select(path, "random", 2, seed=-1)


def test_no_command_shows_the_help(cli) -> None:
    found = cli()
    assert (found.code, found.out) == (2, "") and found.err.startswith("Usage: mmselect")


def test_closed_streams(pool: Path) -> None:
    base = f"{sys.executable} -m mmselect select {pool} -s entropy -b 3"
    closed = subprocess.run(f"{base} >&-", shell=True, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    closed = subprocess.run(f"{base} 2>&-", shell=True, capture_output=True, text=True)
    assert closed.returncode == 0 and closed.stdout.count("\n") == 3


def test_standard_output_by_name_keeps_what_a_file_holds(pool: Path, tmp_path: Path) -> None:
    base = f"{sys.executable} -m mmselect select {pool} -s entropy -b 3"
    log = tmp_path / "log.txt"
    log.write_text("keep\n")
    subprocess.run(f"{base} -o /dev/stdout >> {log}", shell=True, check=True)
    assert log.read_text().startswith("keep\n") and log.read_text().count("\n") == 4


@pytest.mark.parametrize("method", ["seek", "readinto"])
@pytest.mark.parametrize("command", ["check", "embed"])
def test_an_interrupt_that_meets_hdf5_in_a_call_back_is_one(
    pool: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, method: str, command: str
) -> None:
    target = tmp_path / "out.h5"
    output = ["-o", target] if command == "embed" else []
    plain, calls = getattr(storage.Medium, method), []

    def interrupted(medium: storage.Medium, *arguments: Any) -> Any:
        calls.append(method)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return plain(medium, *arguments)

    monkeypatch.setattr(storage.Medium, method, interrupted)
    stop = 0
    assert cli(command, pool, *output).code == 0
    target.unlink(missing_ok=True)
    for stop in range(1, len(calls) + 1, 7):
        calls.clear()
        found = cli(command, pool, *output)
        assert (found.code, found.err) == (130, "error: interrupted\n"), stop
        assert not target.exists()
