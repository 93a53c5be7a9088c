"""The strategy that covers what the model doubts, and scores spread over the features."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import mmselect
from mmselect.core.coverage.facility import facility
from mmselect.engine import Engine
from mmselect.errors import NeedsError
from mmselect.strategies import diversity
from mmselect.strategies.covering import cover_by
from mmselect.strategies.record import Batch

N, C = 150, 4
DOUBTS = ("none", "fused", "heads", "fused+heads")


def arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    names = ("audio", "image")
    features = {m: rng.integers(-2, 3, (N, 5)).astype(np.float32) for m in names}  # with ties
    features["image"][::20] = 0
    logits = {m: np.round(rng.normal(scale=2, size=(N, C)) * 4) / 4 for m in (*names, "fused")}
    logits["fused"][7, 1:] = -np.inf
    return {
        "features": features,
        "unimodal_logits": {m: logits[m] for m in names},
        "multimodal_logits": logits["fused"],
        "labeled": np.arange(N) % 11 == 0,
    }


def write(path: Path, **parts: Any) -> Path:
    mmselect.write_pool(path, ids=[f"x{i:03d}" for i in range(N)], **parts)
    return path


def u(logits: Any, rows: Any) -> Any:
    e = np.exp(logits[rows] - logits[rows].max(axis=1, keepdims=True))
    part = 1 - e.max(axis=1) / e.sum(axis=1)
    return part / part.mean()


def naive(parts: dict[str, Any], doubt: str, k: int, tie: float = 1e-10, far: int = 1) -> list[int]:
    """The definition, in float64: weights, similarities, greedy."""
    free = np.flatnonzero(~parts["labeled"])
    s = 0
    for z in parts["features"].values():
        z = np.where(z.any(axis=1, keepdims=True), z - z.mean(0, dtype=np.float64), 0)
        norms = np.linalg.norm(z, axis=1, keepdims=True)
        z = np.divide(z, norms, out=np.zeros_like(z), where=norms > 0)
        s = s + z @ z.T / 2
    s = np.maximum(s, 0)
    terms = [np.ones(len(free))]
    if "fused" in doubt:
        terms.append(u(parts["multimodal_logits"], free))
    if "heads" in doubt:
        terms.append(np.mean([u(f, free) for f in parts["unimodal_logits"].values()], axis=0))
    w, best, picks = np.mean(terms, axis=0), s[:, parts["labeled"]].max(1)[free], []
    s = s[np.ix_(free, free)]
    for _ in range(k):
        gain = w @ np.maximum(s - best[:, None], 0)
        gain[picks] = -1
        picks.append(int(np.argmax(gain >= gain.max() - tie * (far + gain.max()))))
        best = np.maximum(best, s[:, picks[-1]])
    return free[picks].tolist()


@pytest.mark.parametrize("doubt", DOUBTS)
@pytest.mark.parametrize("form", ["exact", "sparse"])
def test_picks_are_those_of_the_definition(tmp_path: Path, doubt: str, form: str) -> None:
    parts = arrays()
    how = {"doubt": doubt, "form": form, "neighbours": N}
    pool = write(tmp_path / "a.h5", **parts)
    found = mmselect.select(pool, "facility", 40, parameters=how)
    expected = naive(parts, doubt, 40, *((1e-7, 10) if form == "sparse" else ()))
    assert found.indices.tolist() == expected
    used = {"none": [], "fused": ["fused"], "heads": ["audio", "image"]}
    assert found.provenance["doubt"] == used.get(doubt, ["fused", "audio", "image"])


def test_picks_are_nested_and_know_no_seed_and_no_threads(tmp_path: Path) -> None:
    pool = write(tmp_path / "a.h5", **arrays())
    whole = mmselect.select(pool, "facility", 130, seed=0, threads=1)
    part = mmselect.select(pool, "facility", 30, seed=7, threads=3)
    assert whole.ids[:30] == part.ids
    assert whole.ids[:30] != mmselect.select(pool, "facility", 30, parameters={"doubt": "none"}).ids


def test_auto_takes_what_the_pool_has(tmp_path: Path, cli) -> None:
    parts = arrays()
    for left_out, doubt in (
        ((), "fused+heads"),
        (("unimodal_logits",), "fused"),
        (("multimodal_logits",), "heads"),
        (("unimodal_logits", "multimodal_logits"), "none"),
    ):
        kept = {name: part for name, part in parts.items() if name not in left_out}
        pool = write(tmp_path / f"{len(left_out)}{doubt}.h5", **kept)
        auto = mmselect.select(pool, "facility", 20)
        assert auto.ids == mmselect.select(pool, "facility", 20, parameters={"doubt": doubt}).ids
        err = cli("select", pool, "-s", "facility", "-b", 20).err
        assert ("note: doubt: samples count by" in err) == (doubt != "none")


def test_with_nothing_labeled_a_model_has_nothing_to_say(tmp_path: Path, cli) -> None:
    parts = arrays()
    parts["labeled"][:] = False
    pool = write(tmp_path / "a.h5", **parts)
    plain = mmselect.select(pool, "facility", 20, parameters={"doubt": "none"})
    found = mmselect.select(pool, "facility", 20, parameters={"doubt": "fused"})
    assert found.ids == plain.ids and found.provenance["doubt"] == []
    err = cli("select", pool, "-s", "facility", "-b", 20).err
    assert "note: doubt: none, since nothing is labeled" in err


def test_heads_that_are_sure_of_everything_are_left_out(tmp_path: Path, cli) -> None:
    parts = arrays()
    parts["multimodal_logits"] = np.where(np.arange(C) == 1, 0.0, -np.inf) + np.zeros((N, C))
    pool = write(tmp_path / "a.h5", **parts)
    heads = mmselect.select(pool, "facility", 20, parameters={"doubt": "heads"})
    assert mmselect.select(pool, "facility", 20).ids == heads.ids
    found = cli("select", pool, "-s", "facility", "-b", 20, "-p", "doubt=fused")
    assert "note: doubt: none, since the heads are sure of every sample" in found.err


def test_logits_are_read_only_as_doubt_asks(tmp_path: Path) -> None:
    pool = write(tmp_path / "a.h5", **arrays())
    with h5py.File(pool, "r+") as handle:
        handle["multimodal_logits"][20] = np.nan
    for doubt in ("none", "heads"):
        mmselect.select(pool, "facility", 5, parameters={"doubt": doubt})
    with pytest.raises(mmselect.MmselectError, match="/multimodal_logits: row 20: "):
        mmselect.select(pool, "facility", 5)
    with h5py.File(pool, "r+") as handle:
        handle["unimodal_logits/image"][30] = np.inf
    with pytest.raises(mmselect.MmselectError, match="/unimodal_logits/image: row 30: "):
        mmselect.select(pool, "facility", 5, parameters={"doubt": "heads"})
    mmselect.select(pool, "facility", 5, parameters={"doubt": "none"})


def test_doubt_that_the_pool_has_no_logits_for(tmp_path: Path) -> None:
    pool = write(tmp_path / "a.h5", features=arrays()["features"])
    for doubt, missing in (
        ("fused", "needs /multimodal_logits,"),
        ("heads", "needs /unimodal_logits,"),
        ("fused+heads", "needs /multimodal_logits and /unimodal_logits,"),
    ):
        with pytest.raises(NeedsError, match=missing):
            mmselect.select(pool, "facility", 5, parameters={"doubt": doubt})
    with pytest.raises(NeedsError, match="needs /multimodal_logits or /unimodal_logits,"):
        mmselect.score(pool, "doubt")


def test_scores_of_doubt_are_the_weights_and_their_parts(tmp_path: Path, cli) -> None:
    parts = arrays()
    pool = write(tmp_path / "a.h5", **parts)
    free = np.flatnonzero(~parts["labeled"])
    table = mmselect.score(pool, "doubt", threads=3)
    assert list(table.components) == ["doubt.fused", "doubt.audio", "doubt.image"]
    heads = [u(f, free) for f in parts["unimodal_logits"].values()]
    terms = [np.ones(len(free)), u(parts["multimodal_logits"], free), np.mean(heads, axis=0)]
    np.testing.assert_allclose(table.score, np.mean(terms, axis=0), rtol=1e-12)
    fused = mmselect.score(pool, "doubt", parameters={"doubt": "fused"})
    assert list(fused.components) == ["doubt.fused"]
    np.testing.assert_allclose(fused.score, np.mean(terms[:2], axis=0), rtol=1e-12)
    nobody = cli("score", pool, "-s", "doubt", "--among", "/dev/null")
    assert (nobody.code, nobody.out) == (0, "id,score,doubt.fused,doubt.audio,doubt.image\n")


def test_sharpened_doubt_is_another(tmp_path: Path) -> None:
    pool = write(tmp_path / "a.h5", **arrays())
    plain, sharp = (
        mmselect.score(pool, "doubt", parameters={"sharpen": value}).score
        for value in (False, True)
    )
    assert sharp.min() < plain.min() and sharp.max() > plain.max()
    picks = mmselect.select(pool, "facility", 40, parameters={"sharpen": True})
    assert picks.provenance["parameters"]["sharpen"] is True


def batch(parts: dict[str, Any]) -> Batch:
    labeled = parts["labeled"]
    return Batch(
        columns={f"/features/{m}": z for m, z in parts["features"].items()},
        constants={},
        candidates=np.flatnonzero(~labeled),
        labeled=np.flatnonzero(labeled),
        parameters={},
        engine=Engine(1),
        progress=lambda done, total: None,
    )


@pytest.mark.parametrize("how", ["d2", "facility"])
def test_any_score_can_be_spread(how: str) -> None:
    seen = batch(arrays())
    scores = np.random.default_rng(3).normal(size=len(seen.candidates))
    picks = diversity.spread(seen, scores, 30, np.random.default_rng(1), how)
    assert len(set(picks.positions.tolist())) == 30
    longer = diversity.spread(seen, scores, 50, np.random.default_rng(1), how)
    assert longer.positions[:30].tolist() == picks.positions.tolist()
    # A score of any sign is taken from its least value on, which then counts nothing.
    again = diversity.spread(seen, scores - scores.min(), 30, np.random.default_rng(1), how)
    assert again.positions.tolist() == picks.positions.tolist()
    assert picks.nearest is not None
    nearest = picks.nearest()
    assert nearest.pick[picks.positions].tolist() == list(range(30)) or how == "facility"
    # They score higher than a cover that knows no score.
    plain = cover_by(facility, seen, 30, unit=True)
    assert scores[picks.positions].mean() > scores[plain.positions].mean() + 0.2


def test_scores_spread_by_facility_are_weights_of_its_clients() -> None:
    seen = batch(arrays())
    scores = np.random.default_rng(3).random(len(seen.candidates))
    spread = diversity.spread(seen, scores, 30, np.random.default_rng(1), "facility")
    cover = cover_by(partial(facility, weights=5 * scores), seen, 30, unit=True)
    assert spread.positions.tolist() == cover.positions.tolist()
    np.testing.assert_allclose(spread.scores, cover.scores)


def test_d2_draws_by_the_fourth_power_of_the_score() -> None:
    parts = arrays()
    parts["features"] = {"image": np.array([[0.0], [1.0], [-1.0]] + [[0.0]] * (N - 3))}
    parts["labeled"] = np.zeros(N, bool)
    scores = np.zeros(N)
    scores[:3] = 2.0, 1.0, 1.5  # the first pick is 0 or 2 by w‖z‖²; of two rows, one is left
    drawn = [
        diversity.spread(batch(parts), scores, 2, np.random.default_rng(seed), "d2").positions
        for seed in range(800)
    ]
    assert {int(picks[0]) for picks in drawn} == {2}
    # Then D² is 1 for row 0 and 4 for row 1: 2⁴ · 1 against 1⁴ · 4.
    assert np.mean([picks[1] == 0 for picks in drawn]) == pytest.approx(0.8, abs=0.05)


def test_provenance_says_what_was_in_doubt(tmp_path: Path, cli) -> None:
    pool = write(tmp_path / "a.h5", **arrays())
    found = cli("select", pool, "-s", "facility", "-b", 3, "--format", "json", "-p", "doubt=heads")
    made = json.loads(found.out)["provenance"]
    assert made["doubt"] == ["audio", "image"] and made["parameters"]["doubt"] == "heads"
