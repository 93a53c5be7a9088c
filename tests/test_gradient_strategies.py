"""BADGE and BMMAL through the front door: pools of every shape they can come in."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.core.sampling.gradients import full
from mmselect.demo import EMOJI

N, C = 120, 6
DIMS = {"image": 5, "sound": 4, "text": 3}


def linear_pool(m: int = 3, n: int = N, seed: int = 0) -> dict[str, Any]:
    """A pool with a linear head; its logits follow from features and head."""
    rng = np.random.default_rng(seed)
    names = list(DIMS)[:m]
    features = {k: rng.standard_normal((n, DIMS[k])) for k in names}
    weight = {k: rng.standard_normal((C, DIMS[k])) for k in names}
    bias = rng.standard_normal(C)
    return {"features": features, "classifier_weight": weight, "classifier_bias": bias}


def logits_of(pool: dict[str, Any], names: tuple[str, ...] | None = None) -> np.ndarray:
    names = tuple(pool["features"]) if names is None else names
    parts = [pool["features"][k] @ pool["classifier_weight"][k].T for k in names]
    return pool["classifier_bias"] + sum(
        parts, np.zeros((len(next(iter(pool["features"].values()))), C))
    )


def coalitions_of(pool: dict[str, Any]) -> dict[str, np.ndarray]:
    names = sorted(pool["features"])
    found = {}
    for bits in range(1 << len(names)):
        members = tuple(name for i, name in enumerate(names) if bits >> i & 1)
        found["+".join(members) or "none"] = logits_of(pool, members)
    return found


def written(path: Path, **given: Any) -> Path:
    mmselect.write_pool(path, **given)
    return path


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_linear_head_equals_its_coalition_logits(tmp_path: Path, m: int) -> None:
    pool = linear_pool(m)
    linear = written(tmp_path / "a.h5", **pool, multimodal_logits=logits_of(pool))
    coalitions = coalitions_of(pool)
    exported = written(tmp_path / "b.h5", features=pool["features"], coalition_logits=coalitions)
    a, b = (mmselect.score(path, "contribution") for path in (linear, exported))
    assert list(a.components) == list(b.components)
    for name in a.components:
        np.testing.assert_allclose(a.components[name], b.components[name], atol=1e-6)
    for strategy in ("badge", "bmmal"):
        picks = [mmselect.select(path, strategy, 25, seed=2).ids for path in (linear, exported)]
        assert picks[0] == picks[1]


def test_logits_that_are_not_exported_follow_from_the_head(tmp_path: Path) -> None:
    pool = linear_pool()
    given = written(tmp_path / "a.h5", **pool, multimodal_logits=logits_of(pool).astype("f4"))
    bare = written(tmp_path / "b.h5", **pool)
    for strategy in ("badge", "bmmal"):
        picks = [mmselect.select(path, strategy, 25).indices.tolist() for path in (given, bare)]
        assert picks[0] == picks[1]


def test_contribution_has_the_columns_of_the_contract(pool: Path) -> None:
    table = mmselect.score(pool, "contribution")
    expected = ["pseudo_class", "shapley.image", "shapley.text", "contribution.image"]
    expected += ["contribution.text", "weight.image", "weight.text", "dominance", "gradient_norm"]
    assert list(table.components) == expected
    c = table.components
    assert (table.score == c["dominance"]).all()
    np.testing.assert_allclose(c["contribution.image"] + c["contribution.text"], 1)
    rho = np.abs(c["contribution.image"] - c["contribution.text"])
    np.testing.assert_allclose(c["dominance"], rho, atol=1e-12)
    np.testing.assert_allclose(np.minimum(c["weight.image"], c["weight.text"]), 1 - rho)


def test_gradient_norm_is_that_of_the_written_embedding(pool: Path, cli, tmp_path: Path) -> None:
    norms = mmselect.score(pool, "contribution").components["gradient_norm"]
    target = tmp_path / "e.h5"
    factors: list[np.ndarray] = []
    for form in ("factors", "full"):
        assert cli("embed", pool, "-o", target, "--form", form, "-q").code == 0
        with h5py.File(target) as handle:
            if form == "full":
                g = handle["embedding"][:]
                product = full(factors)
                np.testing.assert_allclose(g, product.reshape(g.shape), rtol=1e-5, atol=1e-7)
            else:
                factors = [handle["a"][:], handle["h"][:]]
                g = np.einsum("nc,nd->ncd", *factors).reshape(len(norms), -1)
            assert handle["id"].asstr()[0] == "s001" and handle["index"][0] == 1
            assert json.loads(handle.attrs["provenance"])["strategy"] == "bmmal"
        np.testing.assert_allclose(np.linalg.norm(g, axis=1), norms, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["badge", "bmmal"])
def test_errors_name_the_pool_and_what_it_has(strategy: str, cli, tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    z, w = np.eye(3, dtype=np.float32), np.array([[1e20, 0, 0], [0, 1, 0]])
    mmselect.write_pool(path, features={"a": z}, classifier_weight={"a": w})
    expected = f"error: {path}: /classifier: row 0: too large: expected up to 1e+18, found 1e+20"
    for command in (("select", path, "-b", 1), ("embed", path, "-o", tmp_path / "e.h5")):
        found = cli(*command, "--strategy", strategy)
        assert (found.code, found.err.strip()) == (1, expected), command
    mmselect.write_pool(path, features={"a": z * 0 + 1}, classifier_weight={"a": w / 1e20})
    assert (
        "copies of others: /features are equal" in cli("select", path, "-b", 2, "-s", strategy).err
    )


def test_a_bias_alone_is_no_head(cli, tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, features={"a": np.eye(3)}, coalition_logits={"a": np.eye(3)})
    with h5py.File(path, "a") as handle:
        del handle["coalition_logits"]
        handle["classifier/bias"] = np.zeros(3)
    found = cli("select", path, "-s", "bmmal", "-b", 1)
    assert found.code == 1 and "needs /classifier/weight/a" in found.err


def test_a_sketch_keeps_inner_products(cli, tmp_path: Path) -> None:
    for form in ("factors", "sketch"):
        found = cli("embed", EMOJI, "-o", tmp_path / form, "--form", form, "--dim", 4096, "-q")
        assert (found.code, found.out, found.err) == (0, "", "")
    rows = slice(0, 300)
    with h5py.File(tmp_path / "factors") as handle:
        exact = (handle["a"][rows] @ handle["a"][rows].T) * (
            handle["h"][rows] @ handle["h"][rows].T
        )
    with h5py.File(tmp_path / "sketch") as handle:
        assert handle["embedding"].shape[1] == 4096
        kept = handle["embedding"][rows] @ handle["embedding"][rows].T
    length = np.sqrt(np.diag(exact))
    error = (kept - exact) / np.outer(length, length)
    assert np.sqrt((error**2).mean()) < 2 / np.sqrt(4096)


def test_full_is_refused_where_it_does_not_fit(
    pool: Path, cli, tmp_path: Path, monkeypatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("mmselect.embedding.shutil.disk_usage", lambda _: usage)
    target = tmp_path / "e.h5"
    found = cli("embed", pool, "-o", target, "--form", "full")
    assert (found.code, found.out) == (1, "") and not target.exists()
    assert "e.h5: the full form takes 8 kB (50 rows of 5 × 8 float32)" in found.err
    assert cli("embed", pool, "-o", target, "--form", "full", "--force").code == 0


def test_nearest_names_the_pick_that_stands_for_each_candidate(pool: Path, cli, tmp_path) -> None:
    target = tmp_path / "nearest.csv"
    found = cli("select", pool, "-s", "bmmal", "-b", 6, "-q", "--nearest", target)
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    picks = found.out.split()
    assert [r["id"] for r in rows] == mmselect.score(pool, "contribution").ids
    assert {r["nearest"] for r in rows} <= set(picks)
    for row in rows:
        assert (row["id"] in picks) == (float(row["distance"]) == 0)
    cli("embed", pool, "-o", tmp_path / "e.h5", "--form", "full", "-q")
    with h5py.File(tmp_path / "e.h5") as handle:
        g, ids = handle["embedding"][:], handle["id"].asstr()[:].tolist()
    distances = np.linalg.norm(g[:, None] - g[[ids.index(p) for p in picks]], axis=2)
    np.testing.assert_allclose(
        [float(r["distance"]) for r in rows], distances.min(axis=1), atol=1e-4
    )
    refused = cli("select", pool, "-s", "entropy", "-b", 6, "--nearest", target)
    assert refused.code == 1 and "entropy has no distance between samples" in refused.err


def test_picks_are_a_prefix_and_carry_their_gain(pool: Path, cli) -> None:
    for name in ("badge", "bmmal"):
        large = mmselect.select(pool, name, 40, seed=5)
        small = mmselect.select(pool, name, 9, seed=5)
        assert small.ids == large.ids[:9] and (small.scores == large.scores[:9]).all()
        assert (large.scores > 0).all()
    norms = mmselect.score(pool, "contribution").components["gradient_norm"]
    assert large.scores[0] == pytest.approx(norms.max() ** 2, rel=1e-5)


def test_balanced_modalities_make_bmmal_badge(tmp_path: Path) -> None:
    pool = linear_pool(1)
    z, w = pool["features"]["image"], pool["classifier_weight"]["image"]
    twice = {
        "features": {"image": z, "text": z},
        "classifier_weight": {"image": w, "text": w},
        "classifier_bias": pool["classifier_bias"],
    }
    path = written(tmp_path / "a.h5", **twice, multimodal_logits=logits_of(twice))
    picks = [mmselect.select(path, name, 30, seed=1).ids for name in ("badge", "bmmal")]
    assert picks[0] == picks[1]


def test_renaming_modalities_changes_nothing(tmp_path: Path) -> None:
    pool = linear_pool(2)
    logits = logits_of(pool)
    renamed = {
        "features": {"z": pool["features"]["image"], "a": pool["features"]["sound"]},
        "classifier_weight": {
            "z": pool["classifier_weight"]["image"],
            "a": pool["classifier_weight"]["sound"],
        },
        "classifier_bias": pool["classifier_bias"],
    }
    paths = [
        written(tmp_path / f"{i}.h5", **p, multimodal_logits=logits)
        for i, p in enumerate((pool, renamed))
    ]
    picks = [mmselect.select(path, "bmmal", 30).ids for path in paths]
    assert picks[0] == picks[1]


def test_the_multilabel_form_is_another(pool: Path, cli) -> None:
    softmax = cli("select", pool, "-s", "badge", "-b", 20, "-q").out
    sigmoid = cli("select", pool, "-s", "badge", "-b", 20, "-q", "-p", "multilabel=true").out
    assert sorted(softmax) and softmax != sigmoid


def test_diversified_smem_differs_from_the_top_and_repeats(pool: Path, cli) -> None:
    top = mmselect.select(pool, "smem", 15)
    spread = mmselect.select(pool, "smem", 15, spread="d2")
    assert spread.ids != top.ids and len(set(spread.ids)) == 15
    assert spread.ids == mmselect.select(pool, "smem", 15, spread="d2").ids
    longer = mmselect.select(pool, "smem", 20, spread="d2")
    assert longer.ids[:15] == spread.ids
    assert top.ids == mmselect.select(pool, "smem", 15).ids
    nearest = mmselect.select(pool, "smem", 5, spread="d2", nearest=True).nearest
    assert nearest is not None and set(nearest.nearest) <= set(spread.ids[:5])


def test_diversified_smem_needs_features(tmp_path: Path, cli) -> None:
    x = arrays()
    path = tmp_path / "a.h5"
    mmselect.write_pool(
        path, unimodal_logits=x["unimodal_logits"], multimodal_logits=x["multimodal_logits"]
    )
    found = cli("select", path, "-s", "smem", "-b", 5, "--spread", "d2")
    assert found.code == 1 and "strategy smem needs /features" in found.err
    auto = cli("select", path, "-b", 5)
    assert auto.code == 0 and "strategy auto: margin (facility lacks /features)" in auto.err


def test_a_broken_row_is_named(pool: Path, cli) -> None:
    with h5py.File(pool, "r+") as handle:
        handle["features/image"][31, 2] = np.nan
    for command in (["score", "-s", "contribution"], ["select", "-s", "bmmal", "-b", 5]):
        found = cli(command[0], pool, *command[1:])
        assert (found.code, found.out) == (1, "")
        assert "pool.h5: /features/image: row 31: expected finite" in found.err
    with h5py.File(pool, "r+") as handle:
        handle["features/image"][31, 2] = 0
        handle["multimodal_logits"][43] = np.nan
    found = cli("select", pool, "-s", "badge", "-b", 5)
    assert found.code == 1 and "pool.h5: /multimodal_logits: row 43: " in found.err


def test_a_missing_coalition_or_weight_is_named(tmp_path: Path, cli) -> None:
    pool = linear_pool()
    coalitions = coalitions_of(pool)
    del coalitions["image+text"]
    path = written(tmp_path / "a.h5", features=pool["features"], coalition_logits=coalitions)
    found = cli("select", path, "-s", "bmmal", "-b", 5)
    assert found.code == 1 and "image+text" in found.err
    del pool["classifier_weight"]["sound"]
    path = written(tmp_path / "b.h5", **pool, multimodal_logits=np.zeros((N, C)))
    found = cli("select", path, "-s", "bmmal", "-b", 5)
    assert found.code == 1 and "/classifier/weight/sound" in found.err


def test_all_rows_equal_are_drawn_uniformly_with_a_warning(tmp_path: Path, cli) -> None:
    path = written(
        tmp_path / "a.h5",
        features={"image": np.ones((30, 2))},
        multimodal_logits=np.tile([1.0, 0.0], (30, 1)),
    )
    found = cli("select", path, "-s", "badge", "-b", 10)
    assert found.code == 0 and len(set(found.out.split())) == 10
    assert "note: " in found.err


def test_info_tells_contributions(cli) -> None:
    found = json.loads(cli("info", EMOJI, "--format", "json").out)["contributions"]
    table = mmselect.score(EMOJI, "contribution").components
    near = partial(pytest.approx, rel=1e-5)
    assert found["mean"]["text"] == near(table["contribution.text"].mean())
    assert found["dominates"]["image"] == near((table["contribution.image"] > 0.5).mean())
    assert found["dominance"] == near(table["dominance"].mean())
    image = table["contribution.image"] > table["contribution.text"]
    norm = table["gradient_norm"]
    assert found["norm_ratio_after"] == near(norm[image].mean() / norm[~image].mean())
    dominated = found["weight_where_dominated_by"]["text"]["image"]
    assert dominated == near(table["weight.image"][~image].mean())
