"""The other systems of the papers through the front door: labels, bad input, the same bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect import tasks
from mmselect.core.coverage import gcnal, typiclust
from mmselect.demo import EMOJI
from mmselect.errors import NeedsError
from mmselect.strategies import registry
from mmselect.strategies.record import Batch, Picks, Strategy, need

BATCH: dict[str, tuple[str, dict[str, Any]]] = {
    "alfa-mix": ("alfa-mix", {}),
    "gcnal": ("gcnal", {"epochs": 20}),
    "gcnal core": ("gcnal", {"epochs": 20, "variant": "core"}),
    "typiclust": ("typiclust", {}),
}
SCORES = {"deepfool": ("deepfool", {}), "sraal-indicator": ("sraal-indicator", {})}
EVERY: dict[str, tuple[str, dict[str, Any]]] = {**BATCH, **SCORES}


def written(path: Path, n: int = 300, **other: Any) -> Path:
    mmselect.write_pool(path, **{**arrays(n, c=7), **other})
    return path


def picked(pool: Any, name: str, k: int = 25, **how: Any) -> mmselect.Selection:
    strategy, parameters = EVERY[name]
    return mmselect.select(pool, strategy, k, parameters=parameters, seed=4, **how)


def bytes_of(picks: mmselect.Selection) -> tuple[bytes, bytes]:
    return picks.indices.tobytes(), picks.scores.tobytes()


@pytest.mark.parametrize("name", EVERY)
def test_labels_are_read_for_labeled_rows_only(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5")
    before = picked(path, name)
    with h5py.File(path, "r+") as handle:
        labels, labeled = handle["label"][:], handle["labeled"][:]
        rng = np.random.default_rng(0)
        labels[~labeled] = rng.integers(-1, 7, (~labeled).sum())
        handle["label"][:] = labels
    assert bytes_of(picked(path, name)) == bytes_of(before)
    if name == "alfa-mix":  # and there they do count
        with h5py.File(path, "r+") as handle:
            handle["label"][:] = (labels + 1) % 7
        assert bytes_of(picked(path, name)) != bytes_of(before)


def test_a_batch_has_the_labels_of_labeled_rows_and_no_others(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(batch: Batch, k: int, _rng: np.random.Generator) -> Picks:
        seen.append(batch)
        return Picks(np.arange(k))

    curious = Strategy("curious", "batch", "", look, needs=(need("/label"), need("/features")))
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "curious": curious})
    mmselect.select(pool, "curious", 2)
    (batch,) = seen
    assert set(batch.columns) == {"/features/image", "/features/text"}
    assert batch.labels.tolist() == arrays()["labels"][batch.labeled].tolist()


@pytest.mark.parametrize("name", BATCH)
def test_excluded_rows_take_no_part(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5")
    data = arrays(300, c=7)
    excluded = np.flatnonzero(~data["labeled"])[::5]
    ids = [data["ids"][row] for row in excluded]
    before = picked(path, name, exclude=ids)
    assert not set(before.indices) & {*excluded, *np.flatnonzero(data["labeled"])}
    with h5py.File(path, "r+") as handle:
        z = handle["features/image"][:]
        z[excluded] = np.nan
        handle["features/image"][:] = z
    assert bytes_of(picked(path, name, exclude=ids)) == bytes_of(before)


@pytest.mark.parametrize("name", EVERY)
def test_every_candidate_once(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5", 90)
    candidates = np.flatnonzero(~arrays(90, c=7)["labeled"])
    assert sorted(picked(path, name, len(candidates)).indices) == candidates.tolist()
    assert len({*picked(path, name, 30).ids}) == 30
    with pytest.raises(mmselect.MmselectError, match="at most 75 candidates, found 76"):
        picked(path, name, 76)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_bytes_whatever_threads_memory_shards_and_storage(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "COMPUTE_BLOCK_ELEMENTS", 16 * 70)  # many blocks in a small pool
    monkeypatch.setattr(gcnal, "BLOCK", 64)
    monkeypatch.setattr(typiclust, "BLOCK", 16)
    data = arrays(500, c=70)
    whole = tmp_path / "whole.h5"
    mmselect.write_pool(whole, **data)
    expected = bytes_of(picked(whole, name, threads=1))
    kept = ("classifier_weight", "classifier_bias", "class_names")

    def cut(value: Any, a: int, b: int) -> Any:
        if isinstance(value, dict):
            return {key: cut(each, a, b) for key, each in value.items()}
        return value[a:b]

    shards = []
    for i, (a, b) in enumerate(pairwise((0, 37, 300, 500))):
        shards.append(tmp_path / f"{i}.h5")
        part = {key: v if key in kept else cut(v, a, b) for key, v in data.items()}
        mmselect.write_pool(shards[-1], **part)
    with h5py.File(shards[1], "r+") as handle:
        for path in ("features/image", "multimodal_logits", "label"):
            values = handle[path][()]
            del handle[path]
            handle.create_dataset(path, data=values, chunks=True)
    for pool, threads, memory in ((whole, 3, 1), (shards, 1, 50_000), (shards, 4, 10**9)):
        assert bytes_of(picked(pool, name, threads=threads, memory=memory)) == expected


@pytest.mark.parametrize("name", ["alfa-mix", "gcnal", "gcnal core"])
def test_without_labeled_rows_it_says_what_is_missing(tmp_path: Path, cli, name: str) -> None:
    path = written(tmp_path / "a.h5", labeled=np.zeros(300, bool))
    strategy, parameters = BATCH[name]
    given = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
    found = cli("select", path, "-s", strategy, "-b", 5, *given)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert f"strategy {strategy} needs labeled samples" in found.err
    assert "found none in /labeled or --labeled" in found.err
    names = tmp_path / "labeled.txt"
    names.write_text("\n".join(arrays(300)["ids"][:30]))
    assert cli("select", path, "-s", strategy, "-b", 5, *given, "--labeled", names).code == 0


def test_typiclust_starts_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    mmselect.write_pool(path, features=arrays(80)["features"])
    assert len(mmselect.select(path, "typiclust", 10).ids) == 10


def test_what_a_pool_lacks_is_named(tmp_path: Path) -> None:
    data = arrays(60)
    few = {"features": data["features"], "multimodal_logits": data["multimodal_logits"]}
    path = tmp_path / "a.h5"
    mmselect.write_pool(path, **few)
    with pytest.raises(NeedsError, match="deepfool needs /classifier/weight, which"):
        mmselect.select(path, "deepfool", 3)
    with pytest.raises(NeedsError, match="alfa-mix needs /classifier and /label, which"):
        mmselect.select(path, "alfa-mix", 3)
    half = {"image": data["classifier_weight"]["image"]}
    path = tmp_path / "b.h5"
    mmselect.write_pool(path, **few, labels=data["labels"], classifier_weight=half)
    with pytest.raises(NeedsError, match="alfa-mix needs /classifier/weight/text, which"):
        mmselect.select(path, "alfa-mix", 3)


def test_a_labeled_row_without_a_class_is_named(tmp_path: Path, cli) -> None:
    labels = arrays(60)["labels"]
    labels[12] = -1
    path = tmp_path / "a.h5"
    mmselect.write_pool(path, **{**arrays(60), "labels": labels})
    found = cli("select", path, "-s", "alfa-mix", "-b", 5)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert "a.h5: /label: row 12: " in found.err and "found -1" in found.err


@pytest.mark.parametrize("name", EVERY)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, cli, name: str) -> None:
    path = written(tmp_path / "a.h5")
    strategy, _ = EVERY[name]
    dataset = "multimodal_logits" if name in SCORES else "features/text"
    with h5py.File(path, "r+") as handle:
        handle[dataset][41, 1] = np.nan
    found = cli("select", path, "-s", strategy, "-b", 5)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert f"a.h5: /{dataset}: row 41: expected finite" in found.err
    with h5py.File(path, "r+") as handle:
        handle[dataset][41, 1] = 9.97e36
    found = cli("select", path, "-s", strategy, "-b", 5)
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert f"a.h5: /{dataset}: row 41: too large" in found.err


def test_copies_and_rows_of_zeros_are_told(tmp_path: Path) -> None:
    data = arrays(60, c=7)
    for z in data["features"].values():
        z[40:] = z[40]
        z[5] = z[7] = 0
    path = tmp_path / "a.h5"
    mmselect.write_pool(path, **data)
    for name in BATCH:
        notes = picked(path, name, 50).provenance["warnings"]
        assert any("of the picks are copies of others" in note for note in notes), name
        assert any("2 rows are all zero" in note for note in notes), name


def test_what_was_done_is_in_the_provenance(cli) -> None:
    common = ("select", EMOJI, "-b", 30, "--format", "json", "-q", "-s")
    mixed = json.loads(cli(*common, "alfa-mix", "-p", "cap=0.03125").out)["provenance"]
    assert mixed["changed"] > 30 and (mixed["epsilon"] / 0.03125).is_integer()
    learned = json.loads(cli(*common, "gcnal", "-p", "epochs=30").out)["provenance"]
    assert learned["loss"][1] < learned["loss"][0]


def test_scores_rank_from_the_least_sure(pool: Path) -> None:
    for name in SCORES:
        table = mmselect.score(pool, name)
        assert not table.components
        order = np.argsort(-table.score, kind="stable")[:5]
        picks = mmselect.select(pool, name, 5)
        assert picks.indices.tolist() == table.indices[order].tolist()
        nobody = mmselect.score(pool, name, among=[])
        assert nobody.score.shape == (0,) and not nobody.components
    data, rows = arrays(), mmselect.score(pool, "deepfool")
    weight = np.hstack([data["classifier_weight"][m] for m in ("image", "text")])
    f = data["multimodal_logits"][rows.indices].astype(np.float64)
    for logits, score in zip(f, rows.score, strict=True):
        y = logits.argmax()
        apart = np.linalg.norm(weight[y] - weight, axis=1)
        other = np.arange(len(weight)) != y
        distance = ((logits[y] - logits)[other] / apart[other]).min()
        assert score == pytest.approx(-distance, rel=1e-9)


def test_mmcsal_names_the_way_out_where_widths_differ(tmp_path: Path, cli) -> None:
    rng = np.random.default_rng(0)
    widths = {"audio": 6, "image": 3, "text": 6}
    path = tmp_path / "a.h5"
    mmselect.write_pool(path, features={m: rng.normal(size=(40, d)) for m, d in widths.items()})
    found = cli("select", path, "-s", "mmcsal", "-b", 5)
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert (
        "found audio 6, image 3, text 6; mmselect align makes them, or -p alignment=0" in found.err
    )
    found = cli("score", path, "-s", "alignment")
    assert "mmselect align makes them)" in found.err and "alignment=0" not in found.err
    assert cli("select", path, "-s", "mmcsal", "-b", 5, "-p", "alignment=0", "-q").code == 0
    mmselect.write_pool(tmp_path / "b.h5", features={"image": rng.normal(size=(40, 3))})
    found = cli("select", tmp_path / "b.h5", "-s", "mmcsal", "-b", 5)
    assert "two or more modalities in /features (found image 3)" in found.err
