from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Result

import mmselect
from mmselect.demo import EMOJI


def test_the_demo_shows_picks_and_a_comparison(tmp_path: Path, cli) -> None:
    found = cli("demo", tmp_path / "here")
    assert (found.code, found.err) == (0, "")
    assert {p.name for p in (tmp_path / "here").iterdir()} == {
        "emoji.h5",
        "scores.csv",
        "picks.txt",
        "picks.html",
    }
    picks = (tmp_path / "here" / "picks.txt").read_text().split()
    assert len(set(picks)) == 60
    with mmselect.open_pool(EMOJI) as pool:
        at, _ = pool.ids.find(picks)
        assert set(pool.columns["/metadata/split"][at]) == {b"train"}
    wide = [line for line in found.out.splitlines() if len(line) > 80]
    assert all(len(line.split()) <= 2 for line in wide)  # one path is longer
    whole = found.out.replace(" \\\n    ", " ")
    commands = re.findall(r"^\$ (mmselect .*)$", whole, re.MULTILINE)
    assert len(commands) == 3
    again = cli(*commands[1].split()[1:-2], "-q")
    assert again == Result(0, "\n".join(picks) + "\n", "")
    page = (tmp_path / "here" / "picks.html").read_bytes()
    assert cli(*commands[2].split()[1:-1], tmp_path / "again.html", "-q").code == 0
    assert (tmp_path / "again.html").read_bytes() == page
    for part in ("the current model is wrong", "different classes", "Next, for example:"):
        assert part in found.out
    assert cli("demo", tmp_path / "here").out == found.out


@pytest.mark.parametrize("name", ["emoji.h5", "scores.csv", "picks.txt"])
def test_files_that_the_demo_did_not_write_stay(tmp_path: Path, cli, name: str) -> None:
    for make in (
        lambda target: target.write_text("mine"),
        lambda target: target.symlink_to(tmp_path / "nowhere"),
        lambda target: target.mkdir(),
    ):
        folder = tmp_path / make.__code__.co_names[0]
        folder.mkdir()
        make(folder / name)
        found = cli("demo", folder)
        assert (found.code, found.out) == (1, "")
        assert f"{name}: expected what the demo writes, or nothing, found another" in found.err
        assert [file.name for file in folder.iterdir()] == [name]
    assert (tmp_path / "write_text" / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path, cli) -> None:
    (tmp_path / "file").write_text("")
    found = cli("demo", tmp_path / "file" / "x")
    assert found.code == 1 and found.err.startswith("error: ")


def test_the_shipped_pool_is_sound(cli) -> None:
    assert cli("check", EMOJI).code == 0
    with mmselect.open_pool(EMOJI) as pool:
        assert pool.columns["/features/image"].dtype == np.float16
        logits = pool.constants["/classifier/bias"].astype(float)
        for m in pool.modalities:
            z = pool.columns[f"/features/{m}"][:].astype(float)
            logits = logits + z @ pool.constants[f"/classifier/weight/{m}"].astype(float).T
        stored = pool.columns["/multimodal_logits"][:]
        assert np.abs(logits - stored).max() < 0.01
        test = pool.columns["/metadata/split"][:] == b"test"
        assert test.any() and not (test & pool.labeled).any()
        truth = pool.columns["/label"][:]
        right = {"fused": (stored.argmax(axis=1) == truth)[test].mean()}
        for m in pool.modalities:
            head = pool.columns[f"/unimodal_logits/{m}"][:]
            right[m] = (head.argmax(axis=1) == truth)[test].mean()
    assert right["fused"] > max(right["image"], right["text"])


def test_the_shipped_pool_needs_no_more_than_h5py() -> None:
    with h5py.File(EMOJI) as handle:
        assert handle.attrs["format"] == "mmselect-pool"
        assert EMOJI.stat().st_size < 3_100_000
