"""Samples that lack a modality: what each method makes of them, and that it reads nothing there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import INSTALLED, Result, arrays

import mmselect
from mmselect.core.unit_rows import unit_rows
from mmselect.demo import EMOJI
from mmselect.pool.writing import PoolWriter
from mmselect.strategies.registry import BUILT_IN

N, LABELED = 60, np.arange(60) % 6 == 0


def masks(n: int = N) -> dict[str, np.ndarray]:
    """A third lacks the text, some others the image."""
    return {"text": np.arange(n) % 3 != 0, "image": np.arange(n) % 5 != 1}


def incomplete(poison: float = np.nan, coalitions: bool = False, n: int = N) -> dict[str, Any]:
    """`conftest.arrays`, in which some samples lack a modality; `poison` stands there."""
    given, present = arrays(n), masks(n)
    present["image"] |= ~present["text"]
    given["present"] = present
    rng = np.random.default_rng(5)
    if coalitions:
        del given["classifier_weight"], given["classifier_bias"]
        names = ("none", "image", "text", "image+text")
        given["coalition_logits"] = {c: rng.normal(size=(n, 5)).astype("f4") for c in names}
    absent = {name: ~mask for name, mask in present.items()} | {"none": np.zeros(n, bool)}
    absent["image+text"] = absent["image"] | absent["text"]
    for group in ("features", "unimodal_logits", "coalition_logits"):
        for name, values in given.get(group, {}).items():
            given[group][name] = values.copy()
            given[group][name][absent[name]] = poison
    return given


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """One pool twice: nan stands where a modality is absent, or numbers."""
    paths = tmp_path / "nan.h5", tmp_path / "numbers.h5"
    for path, poison in zip(paths, (np.nan, 1e3), strict=True):
        mmselect.write_pool(path, **incomplete(poison))
    return paths


@pytest.mark.parametrize("coalitions", [False, True])
@pytest.mark.parametrize("name", INSTALLED)
def test_no_strategy_reads_a_number_of_an_absent_modality(
    tmp_path: Path, name: str, coalitions: bool
) -> None:
    found = []
    for poison in (np.nan, 1e3):
        path = tmp_path / f"{poison}.h5"
        mmselect.write_pool(path, **incomplete(poison, coalitions))
        try:
            picks = mmselect.select(path, name, budget=20, nearest=BUILT_IN[name].distance)
        except mmselect.errors.NeedsError:
            assert coalitions and name in ("alfa-mix", "deepfool")
            return
        found.append((picks.ids, picks.scores.tolist()))
        if picks.nearest is not None:
            assert np.isfinite(picks.nearest.distance).all()
            found[-1] += (picks.nearest.nearest,)
        if BUILT_IN[name].kind == "score":
            table = mmselect.score(path, name)
            assert np.isfinite(table.score).all()
            found.append({k: v.tolist() for k, v in table.components.items()})
    half = len(found) // 2
    assert repr(found[:half]) == repr(found[half:])  # nan is nan


@pytest.mark.parametrize("how", ["d2", "facility"])
def test_scores_are_spread_over_what_is_there(two: tuple[Path, Path], how: str) -> None:
    picks = [mmselect.select(path, "margin", budget=20, spread=how, nearest=True) for path in two]
    assert picks[0].ids == picks[1].ids and picks[0].nearest.nearest == picks[1].nearest.nearest
    assert (picks[0].nearest.distance == picks[1].nearest.distance).all()


def test_embeddings_are_zero_where_a_modality_is_absent(
    two: tuple[Path, Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    for strategy in ("badge", "bmmal"):
        for path in two:
            assert cli("embed", path, "-o", path.with_suffix(".e"), "-s", strategy).code == 0
        with h5py.File(two[0].with_suffix(".e")) as a, h5py.File(two[1].with_suffix(".e")) as b:
            assert (a["h"][()] == b["h"][()]).all() and (a["a"][()] == b["a"][()]).all()
            has = {m: mask[~LABELED] for m, mask in incomplete()["present"].items()}
            assert (a["h"][()][~has["image"], :4] == 0).all()
            assert (a["h"][()][~has["text"], 4:] == 0).all()
            assert a["h"][()][has["text"], 4:].all()


def test_info_says_who_lacks_what(two: tuple[Path, Path], cli: Callable[..., Result]) -> None:
    said = [json.loads(cli("info", path, "--format", "json").out) for path in two]
    for one in said:
        one.pop("files")
    assert said[0] == said[1]
    assert {tuple(p["has"]): p["samples"] for p in said[0]["patterns"]} == {
        ("image", "text"): 32,
        ("image",): 20,
        ("text",): 8,
    }
    text = cli("info", two[0]).out
    assert "with image, without text  20 (33.3 %)" in text
    assert "class    share of the labels" in text


# --- definitions, written out -----------------------------------------------------------------


def cosines(z: np.ndarray, has: np.ndarray, center: bool) -> np.ndarray:
    z = np.where(has[:, None], z, 0).astype(float)
    if center:
        z = np.where(has[:, None], z - z[has].mean(axis=0), 0)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    z = np.divide(z, norm, out=np.zeros_like(z), where=norm > 0)
    return z @ z.T


def similarities(given: dict[str, Any], center: bool = True) -> np.ndarray:
    """s_ij: the mean cosine over the modalities that both have, 0 where there is none."""
    total, common = np.zeros((N, N)), np.zeros((N, N))
    for name, z in given["features"].items():
        has = given["present"][name]
        total += np.where(np.outer(has, has), cosines(z, has, center), 0)
        common += np.outer(has, has)
    return np.divide(total, common, out=np.zeros((N, N)), where=common > 0)


def naive_facility(s: np.ndarray, k: int) -> list[int]:
    s, free, best = np.maximum(s, 0), ~LABELED, np.maximum(s, 0)[:, LABELED].max(axis=1)
    picks: list[int] = []
    for _ in range(k):
        gains = np.maximum(s - best[:, None], 0)[~LABELED].sum(axis=0)
        gains[~free] = -1
        picks.append(int(np.argmax(gains >= gains.max() - 1e-9)))
        free[picks[-1]] = False
        best = np.maximum(best, s[:, picks[-1]])
    return picks


@pytest.mark.parametrize("form", ["exact", "sparse"])
def test_facility_compares_what_both_have(form: str) -> None:
    from mmselect.core.coverage.facility import facility

    given = incomplete()
    how: dict[str, Any] = {"present": given["present"], "form": form, "neighbours": N}
    found = facility(given["features"], 30, labeled=np.flatnonzero(LABELED), **how)
    assert found.picks.tolist() == naive_facility(similarities(given), 30)


def imputed(given: dict[str, Any], rows: np.ndarray, unit: bool = False) -> np.ndarray:
    """Features side by side; the mean over those of the rows that have it where one is absent."""
    parts = []
    for name, z in given["features"].items():
        has, z = given["present"][name], z.astype(float)
        if unit:
            z = np.where(has[:, None], z, 1.0)
            z = z / np.linalg.norm(z, axis=1, keepdims=True)
        own = np.isin(np.arange(N), rows) & has
        parts.append(np.where(has[:, None], z, z[own].mean(axis=0)))
    return np.hstack(parts)


@pytest.mark.parametrize("unit", [False, True])
def test_kcenter_puts_the_mean_where_a_modality_is_absent(unit: bool) -> None:
    from mmselect.core.coverage.kcenter import kcenter

    given = incomplete()
    x, centres, expected = imputed(given, np.arange(N), unit), np.flatnonzero(LABELED).tolist(), []
    for _ in range(30):
        apart = np.linalg.norm(x[:, None] - x[centres], axis=2).min(axis=1)
        expected.append(int(apart.argmax()))
        centres.append(expected[-1])
    how = {"labeled": np.flatnonzero(LABELED), "unit": unit, "present": given["present"]}
    assert kcenter(given["features"], 30, **how).picks.tolist() == expected


def test_features_side_by_side_have_the_mean_where_a_modality_is_absent() -> None:
    from mmselect.core.coverage.kmeans import kmeans
    from mmselect.core.joined import joined
    from mmselect.core.sampling.points import feature_points
    from mmselect.core.side_by_side import side_by_side

    given, rows = incomplete(poison=0.0), np.flatnonzero(~LABELED)
    for unit, each in ((False, "none"), (True, "modality")):
        x = imputed(given, rows, unit)
        found, _ = side_by_side(given["features"], rows, unit=each, present=given["present"])
        assert np.allclose(found, x[rows], atol=1e-6)
        own = {m: mask[rows] for m, mask in given["present"].items()}
        cut = {m: z[rows] for m, z in given["features"].items()}
        assert np.allclose(joined(cut, unit=unit, present=own)[:], x[rows], atol=1e-6)
    whole = imputed(given, rows)[rows]
    rng = np.random.default_rng
    assert (
        kmeans(cut, 5, rng(0), present=own).picks.tolist()
        == kmeans([whole.astype("f4")], 5, rng(0)).picks.tolist()
    )
    points = feature_points(given["features"], rows, given["present"])
    (factor,) = points.factors(rows, [z[rows] for z in given["features"].values()])
    assert np.allclose(factor + points.origin, whole, atol=1e-6)


def test_smem_shares_out_the_weights_among_the_heads_that_are_there(tmp_path: Path) -> None:
    from scipy.special import softmax
    from scipy.stats import entropy

    given = incomplete(np.nan)
    given["labeled"] = np.zeros(N, bool)
    present = given["present"]
    # the features of a third modality, which has no head, and which alone some samples have
    given["features"]["audio"] = np.ones((N, 2), "f4")
    for mask in present.values():
        mask[7] = False
    for group in ("features", "unimodal_logits"):
        given[group]["text"][7] = given[group]["image"][7] = np.nan
    given["classifier_weight"] = {}
    path = tmp_path / "smem.h5"
    mmselect.write_pool(path, **given)
    table = mmselect.score(path, "smem", parameters={"alpha.image": 0.2, "alpha.text": 0.8})
    for i in range(N):
        own = {m: softmax(given["unimodal_logits"][m][i].astype(float)) for m in ("image", "text")}
        own = {m: p for m, p in own.items() if present[m][i]}
        alpha = {m: {"image": 0.2, "text": 0.8}[m] for m in own}
        expected = entropy(softmax(given["multimodal_logits"][i].astype(float)))
        for m, p in own.items():
            expected += alpha[m] / sum(alpha.values()) * entropy(p)
        if own:
            expected += entropy(np.mean(list(own.values()), axis=0)) - np.mean(
                [entropy(p) for p in own.values()]
            )
        assert table.score[i] == pytest.approx(expected, abs=1e-5)
        for m in ("image", "text"):
            assert np.isnan(table.components[f"entropy.{m}"][i]) == (m not in own)


def test_doubt_counts_the_heads_that_are_there() -> None:
    from mmselect.core.scores.doubt import doubt_weights

    u = {"image": np.array([0.1, 0.3, 0.2, 9.0]), "text": np.array([0.2, 9.0, 0.4, 9.0])}
    has = {"image": np.array([1, 1, 1, 0], bool), "text": np.array([1, 0, 1, 0], bool)}
    fused = np.array([0.2, 0.2, 0.1, 0.3])
    heads = [(0.5 + 0.2 / 0.3) / 2, 1.5, (1.0 + 0.4 / 0.3) / 2]
    expected = [(1 + f / 0.2 + h) / 3 for f, h in zip(fused[:3], heads, strict=True)]
    expected.append((1 + fused[3] / 0.2) / 2)
    found = doubt_weights({"fused": fused}, u, present=has)
    assert found.weights == pytest.approx(np.array(expected) / np.mean(expected))
    assert found.used == ("fused", "image", "text")


def test_players_are_the_modalities_that_are_there(tmp_path: Path) -> None:
    from mmselect.core.scores.coalitions import exported_shapley, linear_shapley
    from mmselect.core.scores.shapley import contributions, dominance_degree

    given, rng = incomplete(0.0, coalitions=True), np.random.default_rng(0)
    z, present = given["features"], given["present"]
    head = {m: rng.normal(size=(5, 4)) for m in z}
    phi, pseudo = linear_shapley(z, head)
    logits = {n: np.nan_to_num(f) for n, f in given["coalition_logits"].items()}
    exported, label = exported_shapley(logits, ["image", "text"], present=present)
    has = np.stack([present["image"], present["text"]], axis=1)
    for i in range(N):
        own = [m for m in ("image", "text") if present[m][i]]
        alone, best = linear_shapley({m: z[m][i : i + 1] for m in own}, {m: head[m] for m in own})
        expected = dict(zip(own, alone[0], strict=True))
        assert phi[i] == pytest.approx([expected.get(m, 0.0) for m in ("image", "text")])
        assert pseudo[i] == best[0]
        names = ["none", *own, *(["image+text"] if len(own) == 2 else [])]
        game = {n: logits[n][i : i + 1] for n in names}
        alone, best = exported_shapley(game, own)
        expected = dict(zip(own, alone[0], strict=True))
        assert exported[i] == pytest.approx([expected.get(m, 0.0) for m in ("image", "text")])
        assert label[i] == best[0]
    share = contributions(phi * 0, has)
    assert (share[has.sum(axis=1) == 1].max(axis=1) == 1).all() and (share[~has] == 0).all()
    assert (share[has.all(axis=1)] == 0.5).all() and (dominance_degree(share, has) == 0).all()


def test_alignment_is_over_the_pairs_that_are_there() -> None:
    from mmselect.core.scores.alignment import matched_cosine, modality_gap

    rng = np.random.default_rng(0)
    z = {m: rng.normal(size=(8, 3)) for m in "abc"}
    has = {"b": np.arange(8) % 2 == 0, "c": np.arange(8) % 4 != 3}
    unit = {m: x / np.linalg.norm(x, axis=1, keepdims=True) for m, x in z.items()}
    poisoned = {m: np.where(has.get(m, np.ones(8, bool))[:, None], x, np.nan) for m, x in z.items()}
    score = matched_cosine(poisoned, present=has)
    every = has | {"a": np.ones(8, bool)}
    for i in range(8):
        own = [m for m in "abc" if every[m][i]]
        pairs = [unit[p][i] @ unit[q][i] for p in own for q in own if p < q]
        assert score[i] == pytest.approx(np.mean(pairs) if pairs else 0.0)
    blank = {m: np.nan_to_num(x) for m, x in poisoned.items()}
    gap = modality_gap(blank, present=has)
    mean = {m: unit[m][every[m]].mean(axis=0) for m in "abc"}
    assert gap.gap["a", "b"] == pytest.approx(np.linalg.norm(mean["a"] - mean["b"]))
    both = has["b"] & has["c"]
    matched = (unit["b"][both] * unit["c"][both]).sum(axis=1).mean()
    assert gap.matched["b", "c"] == pytest.approx(matched)
    assert gap.zero_rows == {"a": 0, "b": 0, "c": 0}


def test_parameters_see_the_mean_cosine_of_what_a_sample_has() -> None:
    from mmselect.core.parametric.parametric import parametric

    given, rng = incomplete(), np.random.default_rng(3)
    how: dict[str, Any] = {"present": given["present"], "alignment": 0.0, "steps": 0}
    found = parametric(given["features"], 20, rng, **how)
    # with no step the parameters are the initial samples, made whole; each is matched in order
    unit = {}
    for m, z in given["features"].items():
        unit[m] = np.nan_to_num(z / np.linalg.norm(z, axis=1, keepdims=True)).astype(float)
    has = given["present"]
    theta = {m: x[found.initial].copy() for m, x in unit.items()}
    for m, x in unit.items():
        mean = x[has[m]].mean(axis=0)
        theta[m][~has[m][found.initial]] = mean / np.linalg.norm(mean)
    count = sum(mask.astype(int) for mask in has.values())
    s = sum(unit[m] @ theta[m].T for m in unit) / count[:, None]
    taken: list[int] = []
    for j in range(20):
        column = s[:, j].copy()
        column[taken] = -np.inf
        taken.append(int(column.argmax()))
    assert found.picks.tolist() == taken
    assert found.similarity == pytest.approx(s[taken, np.arange(20)], abs=1e-6)
    terms = found.history[0]
    assert terms.distribution == pytest.approx(-s.max(axis=1).mean() / 0.07, rel=1e-5)


def test_alfa_mix_mixes_what_a_sample_has() -> None:
    from mmselect.core.coverage.alfamix import mix_thresholds

    given, rng = incomplete(0.0), np.random.default_rng(1)
    z, present = given["features"], given["present"]
    head = {m: rng.normal(size=(5, 4)) for m in z}
    labeled, rows = np.flatnonzero(LABELED), np.flatnonzero(~LABELED)
    labels = np.arange(len(labeled)) % 5
    found = mix_thresholds(z, head, None, labels, labeled=labeled, candidates=rows, present=present)
    whole = imputed(given, np.arange(N))
    anchors = np.stack([whole[labeled][labels == c].mean(axis=0) for c in range(5)])
    blocks = {"image": slice(0, 4), "text": slice(4, 8)}
    for i, row in enumerate(rows):
        own = [m for m in z if present[m][row]]
        # the sample and the labeled ones as a pool of what it has: one row per anchor
        alone = {m: np.vstack([anchors[:, blocks[m]], z[m][row]]) for m in own}
        at = np.arange(5)
        (expected,) = mix_thresholds(alone, {m: head[m] for m in own}, None, at, labeled=at)
        assert found[i] == pytest.approx(expected, rel=1e-4)


# --- shares among the picks -------------------------------------------------------------------


def lacking_emoji(path: Path, at_random: bool = True) -> np.ndarray:
    """The emoji pool with 30 % of its samples lacking one modality; which do."""
    rng = np.random.default_rng(1)
    with mmselect.open_pool(EMOJI) as pool:
        whole = {p: c[:] for p, c in pool.columns.items() if not p.startswith("/metadata")}
        fixed = dict(pool.constants)
        lacks = rng.random(pool.n) < 0.3
    if not at_random:
        lacks = np.isin(whole["/label"], rng.permutation(76)[:23])
    side = rng.random(len(lacks)) < 0.5
    has = {"image": ~(lacks & side), "text": ~(lacks & ~side)}
    fused = fixed["/classifier/bias"].astype(float)
    for name, mask in has.items():
        z = whole[f"/features/{name}"]
        fused = fused + np.where(mask[:, None], z, 0) @ fixed[f"/classifier/weight/{name}"].T
        for group in ("/features", "/unimodal_logits"):
            whole[f"{group}/{name}"][~mask] = np.nan
        whole[f"/present/{name}"] = mask
    whole["/multimodal_logits"] = fused.astype("f4")
    with PoolWriter(path, fixed, rows=len(lacks)) as writer:
        writer.append(whole)
    return lacks


@pytest.mark.parametrize("at_random", [True, False])
def test_incomplete_samples_are_picked_in_proportion(tmp_path: Path, at_random: bool) -> None:
    path = tmp_path / "lacking.h5"
    lacks = lacking_emoji(path, at_random)
    with mmselect.open_pool(path) as pool:
        share = lacks[~pool.labeled].mean()
    for name in ("facility", "coreset", "badge", "bmmal", "kmeans"):
        picks = mmselect.select(path, name, budget=200)
        for first in (50, 200):  # nested: every prefix is in proportion
            assert lacks[picks.indices[:first]].mean() == pytest.approx(share, abs=0.03), name
        assert any("in proportion" in said for said in picks.provenance["warnings"])
        assert len({*picks.ids}) == 200
    short = mmselect.select(path, "facility", budget=50)
    assert short.ids == mmselect.select(path, "facility", budget=200).ids[:50]
    spread = mmselect.select(path, "margin", budget=100, spread="facility")
    assert lacks[spread.indices].mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("at_random", [True, False])
def test_incomplete_samples_of_three_modalities_are_picked_in_proportion(
    tmp_path: Path, at_random: bool
) -> None:
    rng, n, names = np.random.default_rng(6), 1200, ("audio", "image", "text")
    label = rng.integers(0, 20, n)
    latent = rng.normal(size=(20, 12))[label]
    z = {m: latent + rng.normal(size=(n, 12)) for m in names}
    lacks = rng.random(n) < 0.3 if at_random else np.isin(label, np.arange(6))
    has = rng.random((n, 3)) < 0.5  # one modality is absent, or two
    has[np.arange(n), rng.integers(0, 3, n)] = True
    has[has.all(axis=1), 0] = False
    present = {m: has[:, i] | ~lacks for i, m in enumerate(names)}
    weight = {m: 0.3 * rng.normal(size=(20, 12)) for m in names}
    fused = sum(np.where(present[m][:, None], z[m], 0) @ weight[m].T for m in names)
    heads = {m: z[m] @ weight[m].T for m in names}
    for m in names:
        z[m][~present[m]] = heads[m][~present[m]] = np.nan
    mmselect.write_pool(
        tmp_path / "pool.h5",
        features=z,
        unimodal_logits=heads,
        multimodal_logits=fused,
        classifier_weight=weight,
        classifier_bias=np.zeros(20),
        present=present,
        labeled=np.arange(n) % 20 == 0,
    )
    share = lacks[np.arange(n) % 20 > 0].mean()
    for name in ("facility", "coreset", "badge", "bmmal"):
        picks = mmselect.select(tmp_path / "pool.h5", name, budget=120).indices
        for first in (40, 120):
            assert lacks[picks[:first]].mean() == pytest.approx(share, abs=0.05), name


def test_dealing_is_the_greedy_among_the_pattern_whose_turn_it_is(tmp_path: Path) -> None:
    given = incomplete()
    mmselect.write_pool(tmp_path / "pool.h5", **given)
    picks = mmselect.select(
        tmp_path / "pool.h5", "facility", budget=30, parameters={"doubt": "none"}
    )
    s = np.maximum(similarities(given), 0)
    own = given["present"]["text"].astype(int) + 2 * given["present"]["image"]
    rows, taken = np.flatnonzero(~LABELED), []
    sizes = {p: int((own[rows] == p).sum()) for p in (1, 2, 3)}
    best = s[:, LABELED].max(axis=1)
    for _ in range(30):
        free = [r for r in rows if r not in taken]
        live = {int(own[r]) for r in free}
        served = {p: ((own[taken] == p).sum() + 0.5) / sizes[p] for p in live}
        turn = min(served, key=lambda p: (served[p], p))
        mine = np.array([r for r in free if own[r] == turn])
        gains = np.maximum(s[rows][:, mine] - best[rows][:, None], 0).sum(axis=0)
        taken.append(int(mine[np.argmax(gains >= gains.max() - 1e-9)]))
        best = np.maximum(best, s[:, taken[-1]])
    assert sorted(picks.indices.tolist()) == sorted(taken)
    assert (own[picks.indices] == own[taken]).mean() > 0.9  # equal turns: any order


def test_lists_find_the_neighbours_of_incomplete_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmselect.core.coverage import neighbours
    from mmselect.core.presence import patterns_of, similarities
    from mmselect.engine import SERIAL

    rng, n = np.random.default_rng(0), 4000
    centres = rng.normal(size=(50, 32))
    z = centres[rng.integers(0, 50, n)] + 0.5 * rng.normal(size=(n, 32))
    has = {"a": rng.random(n) > 0.15, "b": np.ones(n, bool)}
    has["b"] = (rng.random(n) > 0.15) | ~has["a"]
    cut = {"a": z[:, :16].astype("f4"), "b": z[:, 16:].astype("f4")}
    features = {m: np.where(has[m][:, None], x, 0) for m, x in cut.items()}
    x = unit_rows(features, center=True, present=has).whole()
    pairs = patterns_of(has, ["a", "b"], n).pairs()
    s = similarities(x, slice(None), slice(None), pairs)
    monkeypatch.setattr(neighbours, "FLAT_UP_TO", 1000)
    monkeypatch.setattr(neighbours, "TRAINING", 8)
    similar, found, name = neighbours.nearest_neighbours(x, 16, SERIAL, pairs)
    assert "inverted lists" in name
    truth = np.argsort(-s, axis=1, kind="stable")[:, :16]
    recall = np.array([np.isin(truth[i], found[i]).mean() for i in range(n)])
    lacks = ~(has["a"] & has["b"])
    assert recall[~lacks].mean() > 0.95 and recall[lacks].mean() > 0.9
    assert np.allclose(similar[5], s[5, found[5]], atol=1e-6)
