"""Stage 1 of MMCSAL on a pool: what is written, that it aligns, and what is said when it cannot."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect import files
from mmselect.core.scores.alignment import modality_gap
from mmselect.demo import EMOJI
from mmselect.errors import DataError, MmselectError, NeedsError, SelectionError, UsageError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mmselect.torch import align_features  # noqa: E402
from mmselect.torch.training import projectors  # noqa: E402

QUICK = {"epochs": 2, "batch_size": 16, "prototypes": 4, "warmup": 1}
FLAGS = ("--epochs", 2, "--batch-size", 16, "--prototypes", 4, "--warmup", 1)


def contents(path: Path) -> dict[str, np.ndarray]:
    with mmselect.open_pool(path) as pool:
        return {**{name: c[:] for name, c in pool.columns.items()}, **pool.constants}


def unit(z: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return np.divide(z, norms, out=np.zeros_like(z), where=norms > 0)


def paired(n: int = 400, seed: int = 0, apart: float = 1.0) -> dict[str, np.ndarray]:
    """Two modalities that see the same 4 numbers through other eyes, and away from the origin."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 4))
    return {
        name: (shared @ rng.standard_normal((4, d)) + 0.1 * rng.standard_normal((n, d)) + shift)
        for name, d, shift in (("image", 12, apart), ("text", 9, -apart))
    }


def test_the_emoji_pool_comes_closer_together(tmp_path: Path) -> None:
    made = align_features(EMOJI, tmp_path / "aligned.h5")
    before, after = made.before[0], made.after[0]
    assert before["gap"] == pytest.approx(0.0320, abs=1e-4)
    assert after["gap"] < 0.85 * before["gap"]
    assert after["matched"] > 0.35 > before["matched"]
    assert made.losses[-1].cross_modal < made.losses[5].cross_modal < made.losses[0].cross_modal
    assert made.losses[4].unimodal is None and made.losses[5].unimodal is not None
    assert made.losses[-1].unimodal < made.losses[5].unimodal
    assert (made.dim, made.prototypes, len(made.losses)) == (64, 87, 25)


def test_modalities_that_are_far_apart_come_close(tmp_path: Path) -> None:
    z = paired()
    mmselect.write_pool(tmp_path / "pool.h5", features={m: x[:, :9] for m, x in z.items()})
    made = align_features(tmp_path / "pool.h5", tmp_path / "aligned.h5", batch_size=64)
    assert made.before[0]["gap"] > 0.5
    assert made.after[0]["gap"] < 0.1 and made.after[0]["matched"] > 0.8
    assert made.warnings == []


def test_features_are_the_projection_and_the_rest_is_carried_over(pool: Path, tmp_path) -> None:
    target = tmp_path / "aligned.h5"
    made = align_features(pool, target, dim=3, **QUICK)
    old, new = contents(pool), contents(target)
    dropped = {path for path in old if path.startswith("/classifier")}
    assert new.keys() == old.keys() - dropped and len(dropped) == 3
    for name in ("image", "text"):
        path = f"/features/{name}"
        weight, bias = made.projectors[name]
        expected = unit(old[path].astype(np.float64) @ weight.T + bias)
        assert new[path].dtype == np.float32 and new[path].shape == (60, 3)
        assert np.allclose(new[path], expected, atol=1e-5)
    for path in new.keys() - {"/features/image", "/features/text"}:
        assert new[path].dtype == old[path].dtype and np.array_equal(new[path], old[path])
    assert "/classifier/weight/text: left out" in made.warnings[0]
    assert mmselect.select(target, "mmcsal", 5).ids
    with h5py.File(target) as handle:
        stored = [handle["features/image"], handle["multimodal_logits"]]
        assert all(d.chunks is None and d.id.get_create_plist().get_nfilters() == 0 for d in stored)
        noted = json.loads(handle.attrs["provenance"])
    assert noted["parameters"]["dim"] == 3 and noted["pool"]["paths"] == [str(pool)]
    assert len(noted["losses"]) == 2


def test_the_report_is_what_the_file_holds(pool: Path, tmp_path) -> None:
    made = align_features(pool, tmp_path / "aligned.h5", **QUICK)
    for path, pair in ((pool, made.before[0]), (tmp_path / "aligned.h5", made.after[0])):
        z = {m: contents(path)[f"/features/{m}"] for m in ("image", "text")}
        found = modality_gap(z)
        assert pair["gap"] == pytest.approx(found.gap["image", "text"], rel=1e-12)
        assert pair["matched"] == pytest.approx(found.matched["image", "text"], rel=1e-12)


def test_the_first_losses_are_those_of_the_plain_form(tmp_path: Path) -> None:
    """One batch, so that the first loss is that of the first projection."""
    z = {name: x.astype(np.float32) for name, x in paired(50).items()}
    mmselect.write_pool(tmp_path / "pool.h5", features=z)
    made = align_features(
        tmp_path / "pool.h5", tmp_path / "a.h5", epochs=1, prototypes=0, rate=1e-12
    )
    a, b = (unit(z[m] @ w.T + bias) for m, (w, bias) in made.projectors.items())
    s = a @ b.T / 0.07
    both = [np.log(np.exp(x).sum(axis=1)) - np.diag(x) for x in (s, s.T)]
    assert made.losses[0].cross_modal == pytest.approx(np.mean(both), rel=1e-4)
    weight, bias = made.projectors["image"]
    assert np.allclose(weight @ z["image"].mean(axis=0) + bias, 0, atol=1e-6)
    assert np.allclose(weight @ weight.T / (weight @ weight.T)[0, 0], np.eye(9), atol=1e-5)


def test_zero_rows_stay_zero_and_are_counted(tmp_path: Path) -> None:
    z = paired(80)
    z["image"][::8] = 0
    z["text"][3] = 0
    mmselect.write_pool(tmp_path / "pool.h5", features=z)
    made = align_features(tmp_path / "pool.h5", tmp_path / "a.h5", **QUICK)
    new = contents(tmp_path / "a.h5")
    assert np.array_equal(~new["/features/image"].any(axis=1), np.arange(80) % 8 == 0)
    assert np.array_equal(~new["/features/text"].any(axis=1), np.arange(80) == 3)
    assert made.warnings == [
        "/features/image: 10 rows are all zero; they stay zero",
        "/features/text: 1 rows are all zero; they stay zero",
    ]


def test_a_missing_modality_is_no_partner(tmp_path: Path) -> None:
    """Samples without one modality do not change what is learned from the others."""
    z = paired(64)
    half = {m: np.concatenate([x, x[:1]]) for m, x in z.items()}
    half["text"][64] = 0
    weights = []
    for name, features in (("all", z), ("half", half)):
        mmselect.write_pool(tmp_path / name, features=features)
        made = align_features(
            tmp_path / name, tmp_path / "a.h5", epochs=3, batch_size=100, prototypes=0
        )
        weight, _ = made.projectors["text"]
        weights.append(weight / np.linalg.norm(weight))
    assert np.allclose(*weights, atol=5e-3)


def test_a_rare_modality_has_fewer_prototypes(tmp_path: Path) -> None:
    z = paired(400)
    z["text"][8:] = 0
    mmselect.write_pool(tmp_path / "pool.h5", features=z)
    made = align_features(tmp_path / "pool.h5", tmp_path / "a.h5", epochs=2, warmup=1)
    assert made.prototypes == 2


def test_three_modalities_of_other_widths_and_half_precision(tmp_path: Path) -> None:
    z = {m: x.astype(np.float16) for m, x in paired(90).items()}
    z["sound"] = np.hstack([z["image"], z["text"]])[:, 5:]
    mmselect.write_pool(tmp_path / "pool.h5", features=z)
    made = align_features(tmp_path / "pool.h5", tmp_path / "a.h5", **QUICK)
    assert made.dim == 9 and made.before == [] and len(made.after) == 3
    new = contents(tmp_path / "a.h5")
    assert {x.dtype for x in new.values()} == {np.dtype(np.float16)}
    norms = np.linalg.norm(new["/features/sound"].astype(np.float64), axis=1)
    assert np.allclose(norms, 1, atol=2e-3)


def test_wider_than_the_features(pool: Path, tmp_path) -> None:
    made = align_features(pool, tmp_path / "a.h5", dim=11, **QUICK)
    assert contents(tmp_path / "a.h5")["/features/text"].shape == (60, 11) and made.dim == 11


def test_same_seed_same_bytes(pool: Path, tmp_path) -> None:
    def written(name: str, **more: Any) -> bytes:
        align_features(pool, tmp_path / name, **{**QUICK, **more})
        return (tmp_path / name).read_bytes()

    first = written("a", seed=3)
    assert written("b", seed=3) == first
    assert written("c", seed=3, memory=1) == first
    assert written("d", seed=4) != first


def test_shards_are_one_pool(tmp_path: Path) -> None:
    whole = arrays(50)
    whole = {name: whole[name] for name in ("ids", "features", "labels", "metadata")}
    mmselect.write_pool(tmp_path / "whole", **whole)

    def cut(value: Any, rows: slice) -> Any:
        if isinstance(value, dict):
            return {name: cut(each, rows) for name, each in value.items()}
        return value[rows]

    for name, rows in (("one", slice(0, 21)), ("two", slice(21, 50))):
        mmselect.write_pool(tmp_path / name, **{k: cut(v, rows) for k, v in whole.items()})
    align_features(tmp_path / "whole", tmp_path / "a", **QUICK)
    align_features([tmp_path / "one", tmp_path / "two"], tmp_path / "b", **QUICK)
    one, two = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one.keys() == two.keys() and len(one) == 6
    assert all(np.array_equal(one[path], two[path]) for path in one)


def test_a_pool_of_many_windows(tmp_path: Path, monkeypatch) -> None:
    """Small windows and samples stand for a pool that is larger than memory."""
    monkeypatch.setattr(projectors, "CHUNK", 8)
    monkeypatch.setattr(projectors, "WINDOW", 5)
    monkeypatch.setattr(projectors, "STEP", 32)
    monkeypatch.setattr("mmselect.torch.training.align.STEP", 32)
    monkeypatch.setattr("mmselect.torch.training.prototypes.SAMPLED", 10)
    rng = np.random.default_rng(0)
    rows = list(projectors._windows(203, rng))
    assert len(rows) == 6
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(203))
    assert all((np.diff(part) > 0).all() for part in rows)
    mmselect.write_pool(tmp_path / "pool", features=paired(203))
    told = []
    made = align_features(
        tmp_path / "pool",
        tmp_path / "a.h5",
        **{**QUICK, "epochs": 8},
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (8 * 203, 8 * 203) and told == sorted(told)
    assert made.losses[-1].cross_modal < made.losses[0].cross_modal
    assert made.after[0]["matched"] > 0.5


def test_threads_of_torch_are_left_as_found(pool: Path, tmp_path) -> None:
    before = torch.get_num_threads()
    align_features(pool, tmp_path / "a.h5", threads=before + 1, **QUICK)
    assert torch.get_num_threads() == before


def test_the_random_state_is_left_as_found(pool: Path, tmp_path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    align_features(pool, tmp_path / "a.h5", **QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_the_command(pool: Path, cli, tmp_path: Path) -> None:
    target = tmp_path / "aligned.h5"
    found = cli("align", pool, "-o", target, *FLAGS)
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0].split() == ["before", "after"]
    assert lines[1].startswith("modality gap, image and text  ")
    assert "cross-modal loss  " in found.out and "unimodal loss  " in found.out
    assert found.err.startswith("note: /classifier/bias, /classifier/weight/image, ")
    assert cli("check", target).code == 0
    again = cli("align", pool, "-o", target, *FLAGS, "-q", "--format", "json")
    assert again.code == 0 and again.err == ""
    report = json.loads(again.out)
    assert report["after"][0]["gap"] == pytest.approx(float(lines[1].split()[-1]), abs=1e-6)
    assert list(report) == ["samples", "dim", "prototypes", "losses", "before", "after", "within"]
    assert report["within"]["text"]["after"] == report["after"][0]["within_text"]


def test_a_gap_that_has_no_before(tmp_path: Path, cli) -> None:
    mmselect.write_pool(tmp_path / "pool", features=paired(60))
    found = cli("align", tmp_path / "pool", "-o", tmp_path / "a.h5", *FLAGS)
    assert found.code == 0 and found.err == ""
    table = [line.split() for line in found.out.splitlines()[1:6]]
    assert [row[-2] for row in table[:3]] == ["–"] * 3
    z = {m: unit(x.astype(np.float32)).mean(axis=0) for m, x in paired(60).items()}
    for row in table[3:]:  # a mean cosine within a modality needs no other
        assert float(row[-2]) == pytest.approx(z[row[3]] @ z[row[3]], abs=2e-6)


def test_within_is_told_once(tmp_path: Path, cli) -> None:
    z = paired(60)
    mmselect.write_pool(tmp_path / "pool", features=z | {"sound": z["text"] + z["image"][:, :9]})
    found = cli("align", tmp_path / "pool", "-o", tmp_path / "a.h5", *FLAGS)
    names = [line.split("  ")[0] for line in found.out.splitlines() if "within" in line]
    assert names == [f"mean cosine within {m}" for m in ("image", "sound", "text")]


def test_no_sample_has_two_modalities(tmp_path: Path, cli) -> None:
    z = paired(60)
    z["image"][::2], z["text"][1::2] = 0, 0
    mmselect.write_pool(tmp_path / "pool", features=z)
    found = cli("align", tmp_path / "pool", "-o", tmp_path / "a.h5", *FLAGS)
    assert (found.code, found.out) == (1, "") and not (tmp_path / "a.h5").exists()
    assert "pool: align needs samples that have two or more modalities, found none" in found.err


def test_the_cross_modal_loss_is_a_mean_over_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples without a partner, and batches without any, add no zeros to it."""
    z = paired(60)
    z["text"][:50] = 0

    def cross_modal(_z: Any, there: Any, _tau: float) -> Any:
        return torch.tensor(5.0 if there["/features/text"].any() else 0.0)

    monkeypatch.setattr(projectors, "_cross_modal", cross_modal)
    monkeypatch.setattr(projectors, "_unimodal", lambda *_: torch.tensor(1.0))
    mmselect.write_pool(tmp_path / "pool", features=z)
    made = align_features(tmp_path / "pool", tmp_path / "a.h5", **QUICK | {"batch_size": 4})
    assert made.losses[1] == (5.0, 1.0)


def test_a_row_that_is_the_mean_is_told_of(tmp_path: Path) -> None:
    z = {"image": np.array([[1, 1], [3, 1], [2, 1]], "f4"), "text": paired(3)["text"]}
    mmselect.write_pool(tmp_path / "pool", features=z)
    made = align_features(tmp_path / "pool", tmp_path / "a.h5", **QUICK | {"prototypes": 0})
    assert not contents(tmp_path / "a.h5")["/features/image"][2].any()
    assert "/features/image: 1 rows are their modality's mean and became zero" in made.warnings


def one_modality(pool: Path) -> None:
    with h5py.File(pool, "r+") as handle:
        del handle["features/text"], handle["classifier"]


def poke(path: str, row: int, value: Any) -> Any:
    def change(pool: Path) -> None:
        with h5py.File(pool, "r+") as handle:
            handle[path][row] = value

    return change


def all_the_same(pool: Path) -> None:
    with h5py.File(pool, "r+") as handle:
        handle["features/text"][:] = 0.25


POOLS = {
    "one modality": (one_modality, NeedsError, "pool.h5: align needs features of two or more"),
    "nan": (poke("features/text", 31, np.nan), DataError, "pool.h5: /features/text: row 31: "),
    "inf": (poke("features/image", 7, np.inf), DataError, "pool.h5: /features/image: row 7: "),
    "same rows": (
        all_the_same,
        DataError,
        "pool.h5: /features/text: expected rows that differ, found all the same",
    ),
    "duplicate": (poke("id", 8, "s005"), DataError, "pool.h5: /id: row 8: expected unique ids"),
    "no pool": (lambda pool: pool.write_text("x"), MmselectError, "pool.h5: expected an HDF5 file"),
}


@pytest.mark.parametrize("case", POOLS)
def test_a_pool_that_cannot_be_aligned(pool: Path, cli, tmp_path: Path, case: str) -> None:
    change, kind, said = POOLS[case]
    change(pool)
    target = tmp_path / "aligned.h5"
    target.write_text("before")
    with pytest.raises(kind) as caught:
        align_features(pool, target, **QUICK)
    assert said in str(caught.value)
    found = cli("align", pool, "-o", target)
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("error: ") and said in found.err and found.err.count("\n") == 1
    assert target.read_text() == "before" and len(list(tmp_path.iterdir())) == 2


OPTIONS = {
    ("--rate", "0"): (2, "rate: expected a number above 0, found '0'"),
    ("--rate", "nan"): (2, "rate: expected a number above 0, found 'nan'"),
    ("--rate", "1e30"): (1, "found 1.0"),
    ("--rate", "1e9"): (1, "at rate 1e+09; try a smaller rate"),
    ("--tau", "-1"): (2, "tau: expected a number above 0, found '-1'"),
    ("--warmup", "26"): (2, "warmup: expected from 0 to 25 epochs, found 26"),
    ("--dim", "0"): (2, "dim: expected a whole number of at least 1, found '0'"),
    ("--batch-size", "1"): (2, "batch_size: expected a whole number of at least 2, found '1'"),
    ("--device", "abacus"): (2, "device: expected auto or a device that torch can use here"),
    ("--device", "meta"): (2, "device: expected auto or a device that torch can use here"),
    ("--prototypes", "61"): (1, "/features/image: prototypes: expected at least 61 rows"),
    ("--format", "xml"): (2, "format: expected text or json"),
    ("--memory", "lots"): (2, "memory: expected an amount"),
}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options_that_do_not_fit(pool: Path, cli, tmp_path: Path, options) -> None:
    code, said = OPTIONS[options]
    found = cli("align", pool, "-o", tmp_path / "aligned.h5", *options)
    assert (found.code, found.out) == (code, "")
    assert said in found.err and found.err.count("\n") == 1
    assert (code == 1) == ("pool.h5: " in found.err)
    assert list(tmp_path.iterdir()) == [pool]


@pytest.mark.parametrize(("name", "value"), [("dim", 0), ("epochs", 0), ("batch_size", 1)])
def test_options_in_python(pool: Path, tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(
        UsageError, match=f"^{name}: expected a whole .* at least {value + 1}, found"
    ):
        align_features(pool, tmp_path / "a.h5", **{name: value})


def test_too_few_samples(tmp_path: Path) -> None:
    one = {m: x[:1] for m, x in paired(4).items()}
    mmselect.write_pool(tmp_path / "pool", features=one)
    with pytest.raises(DataError, match="/features/image: expected rows that differ, found all"):
        align_features(tmp_path / "pool", tmp_path / "a.h5")
    mmselect.write_pool(tmp_path / "few", features={m: x[:3] for m, x in paired(4).items()})
    assert align_features(tmp_path / "few", tmp_path / "a.h5").prototypes == 2
    z = paired(4)
    z["text"][:3] = 0
    mmselect.write_pool(tmp_path / "one", features=z)
    with pytest.raises((DataError, SelectionError), match="/features/text"):
        align_features(tmp_path / "one", tmp_path / "a.h5")


def test_the_pool_is_never_written_over(pool: Path, cli, tmp_path: Path) -> None:
    before = pool.read_bytes()
    (tmp_path / "link.h5").symlink_to(pool)
    for output in (pool, tmp_path / "link.h5"):
        found = cli("align", pool, "-o", output)
        assert found.code == 1 and "expected a file of its own, found the pool" in found.err
    assert pool.read_bytes() == before
    assert cli("align", pool, "-o", "-").code == 2
    assert "does not exist" in cli("align", pool, "-o", tmp_path / "no" / "a.h5").err


def test_a_gpu_that_is_too_small(pool: Path, cli, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("mmselect.torch.training.align.train", full)
    found = cli("align", pool, "-o", tmp_path / "a.h5", "--device", "cpu")
    assert (found.code, found.out) == (1, "") and found.err.count("\n") == 1
    assert "cpu: expected room for a batch and the prototypes, found none left" in found.err


def test_disk_full_leaves_the_target(pool: Path, cli, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "aligned.h5"
    target.write_text("before")
    monkeypatch.setattr(files.os, "fsync", full)
    found = cli("align", pool, "-o", target, *FLAGS)
    assert (found.code, found.out) == (1, "")
    assert "aligned.h5: cannot be written: no space left on device" in found.err
    assert target.read_text() == "before" and len(list(tmp_path.iterdir())) == 2
