"""Cold-start strategies through the front door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import mmselect
from mmselect.demo import EMOJI

COLD = ("facility", "mmcsal", "activeft", "kmeans", "coreset")


def pool_of(path: Path, *widths: int, n: int = 80, zero: bool = False) -> Path:
    rng = np.random.default_rng(0)
    names = ("audio", "image", "text")[: len(widths)]
    features = {m: rng.standard_normal((n, d)) for m, d in zip(names, widths, strict=True)}
    if zero:
        features[names[-1]][[3, 8]] = 0
    mmselect.write_pool(path, ids=[f"x{i}" for i in range(n)], features=features)
    return path


def test_mmcsal_on_the_shipped_pool(cli) -> None:
    common = ("select", EMOJI, "-s", "mmcsal", "-b", 20, "-p", "steps=5", "--format", "json")
    made = json.loads(cli(*common).out)["provenance"]
    assert len(made["loss"]) == 6
    assert set(made["loss"][0]) == {"total", "distribution", "diversity", "alignment"}
    assert made["loss"][-1]["total"] < made["loss"][0]["total"]
    assert 0 <= made["picks_not_initial"] <= 20


@pytest.mark.parametrize("name", COLD)
def test_three_modalities_and_rows_of_zeros(tmp_path: Path, cli, name: str) -> None:
    path = pool_of(tmp_path / "a.h5", 6, 6, 6, zero=True)
    found = cli("select", path, "-s", name, "-b", 80)
    assert found.code == 0 and sorted(found.out.split()) == sorted(f"x{i}" for i in range(80))
    if name in ("mmcsal", "activeft", "facility"):
        assert "/features/text: 2 rows are all zero" in found.err
    again = cli("select", path, "-s", name, "-b", 7, "-q", "--threads", 1)
    assert again.out == cli("select", path, "-s", name, "-b", 7, "-q", "--threads", 3).out


def test_widths_that_differ(tmp_path: Path, cli) -> None:
    path = pool_of(tmp_path / "a.h5", 6, 3)
    for name in COLD:
        found = cli("select", path, "-s", name, "-b", 5, "-p" if name == "x" else "-q")
        assert found.code == (1 if name == "mmcsal" else 0), name
    err = cli("select", path, "-s", "mmcsal", "-b", 5).err
    assert err.startswith("error: ") and "width" in err and err.count("\n") == 1
    assert cli("select", path, "-s", "mmcsal", "-b", 5, "-p", "alignment=0").code == 0


def test_without_alignment_mmcsal_is_activeft(tmp_path: Path) -> None:
    path = pool_of(tmp_path / "a.h5", 6, 6)
    options = {"steps": 20}
    mmcsal = mmselect.select(path, "mmcsal", 9, parameters={**options, "alignment": 0})
    assert mmcsal.ids == mmselect.select(path, "activeft", 9, parameters=options).ids


def test_warnings_of_a_collapse(tmp_path: Path, cli) -> None:
    path = pool_of(tmp_path / "a.h5", 6, 6)
    err = cli("select", path, "-s", "mmcsal", "-b", 5, "-p", "alignment=3").err
    assert "note: alignment 3 is above diversity 1" in err


@pytest.mark.parametrize("name", ["facility", "coreset"])
def test_adding_to_what_is_labeled_continues_the_list(tmp_path: Path, cli, name: str) -> None:
    path = pool_of(tmp_path / "a.h5", 6, 3)
    whole = cli("select", path, "-s", name, "-b", 20, "-q").out.split()
    assert whole[:8] == cli("select", path, "-s", name, "-b", 8, "-q").out.split()
    labeled = tmp_path / "labeled.txt"
    labeled.write_text("\n".join(whole[:8]))
    more = cli("select", path, "-s", name, "-b", 12, "-q", "--labeled", labeled).out.split()
    assert more == whole[8:]


def test_nearest_pick_in_features(tmp_path: Path) -> None:
    path = pool_of(tmp_path / "a.h5", 4, 2)
    picks = mmselect.select(path, "coreset", 6, nearest=True)
    with mmselect.open_pool(path) as pool:
        x = np.hstack([pool.columns[f"/features/{m}"][:] for m in ("audio", "image")])
    distance = np.linalg.norm(x[:, None] - x[picks.indices], axis=2)
    assert picks.nearest is not None
    np.testing.assert_allclose(picks.nearest.distance, distance.min(axis=1), atol=1e-5)
    assert picks.nearest.nearest == [picks.ids[j] for j in distance.argmin(axis=1)]


def test_a_broken_row_is_named(tmp_path: Path, cli) -> None:
    path = pool_of(tmp_path / "a.h5", 4, 4)
    with h5py.File(path, "r+") as handle:
        handle["features/image"][41, 1] = np.inf
    for name in COLD:
        found = cli("select", path, "-s", name, "-b", 5, "--exclude", "/dev/null")
        assert (found.code, found.out) == (1, ""), name
        assert "a.h5: /features/image: row 41: " in found.err, name
    found = cli("score", path, "-s", "alignment")
    assert found.code == 1 and "a.h5: /features/image: row 41: " in found.err


def test_alignment_and_the_modality_gap(tmp_path: Path, cli) -> None:
    path = pool_of(tmp_path / "a.h5", 5, 5, 5)
    with mmselect.open_pool(path) as pool:
        unit = {}
        for m in ("audio", "image", "text"):
            z = pool.columns[f"/features/{m}"][:]
            unit[m] = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = json.loads(cli("info", path, "--format", "json").out)["alignment"]
    assert [p["modalities"] for p in pairs] == [
        ["audio", "image"],
        ["audio", "text"],
        ["image", "text"],
    ]
    for pair in pairs:
        a, b = (unit[m] for m in pair["modalities"])
        gap = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))
        assert pair["gap"] == pytest.approx(gap, abs=1e-6)
        assert pair["across"] == pytest.approx((a @ b.T).mean(), abs=1e-6)
        assert pair["matched"] == pytest.approx((a * b).sum(axis=1).mean(), abs=1e-6)
    score = mmselect.score(path, "alignment").score
    means = [(unit[a] * unit[b]).sum(axis=1) for a, b in (p["modalities"] for p in pairs)]
    np.testing.assert_allclose(score, np.mean(means, axis=0), atol=1e-7)


def test_strategies_that_need_no_scipy_do_not_import_it() -> None:
    code = "import sys, mmselect.strategies.registry; sys.exit(str('scipy' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr == "False\n"


def test_auto_with_features_alone_is_facility(tmp_path: Path, cli) -> None:
    found = cli("select", pool_of(tmp_path / "a.h5", 4), "-b", 3)
    assert found.code == 0 and "strategy auto: facility (" in found.err
