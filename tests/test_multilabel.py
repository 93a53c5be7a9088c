"""Multi-label heads: means over the classes of what two outcomes give, in the core and in pools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import arrays
from hypothesis import given
from hypothesis import strategies as st

import mmselect
from mmselect.core.scores.bernoulli import bernoulli
from mmselect.core.scores.confidence import least_confidence, margin
from mmselect.core.scores.doubt import doubt_weights
from mmselect.core.scores.information import bald, entropy, information
from mmselect.errors import DataError, ParameterError, SchemaError

YES = {"multilabel": True}


def two_outcomes(logits: np.ndarray) -> list[np.ndarray]:
    """Each class as a head of two: what is true of a softmax over 0 and x is true of sigmoid x."""
    return [np.stack([np.zeros(len(logits)), logits[:, k]], axis=1) for k in range(logits.shape[1])]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([0.1, 3.0, 40.0]))
def test_every_class_is_a_softmax_over_0_and_its_logit(seed: int, c: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    heads = {name: scale * rng.normal(size=(12, c)) for name in ("a", "b", "d")}
    classes = [
        information({name: two_outcomes(x)[k] for name, x in heads.items()}) for k in range(c)
    ]
    found = information(heads, activation="sigmoid")
    np.testing.assert_allclose(found.entropy, np.mean([k.entropy for k in classes], axis=0))
    np.testing.assert_allclose(found.jsd, np.mean([k.jsd for k in classes], axis=0), atol=1e-12)
    for measure in (entropy, margin, least_confidence):
        expected = np.mean([measure(x) for x in two_outcomes(heads["a"])], axis=0)
        np.testing.assert_allclose(measure(heads["a"], activation="sigmoid"), expected)


def test_bounds_masks_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    even = np.zeros((3, 5), np.float16)
    assert entropy(even, activation="sigmoid").tolist() == pytest.approx([np.log(2)] * 3)
    assert least_confidence(even, activation="sigmoid").tolist() == [0.5] * 3
    assert margin(even, activation="sigmoid").tolist() == [1.0] * 3
    masked = np.array([[-np.inf, 0.0], [-3e38, 1e4]])
    assert entropy(masked, activation="sigmoid").tolist() == pytest.approx([np.log(2) / 2, 0.0])
    sure = np.array([[40.0, -40.0]])
    tail = np.exp(-40.0)
    assert entropy(sure, activation="sigmoid")[0] == pytest.approx(41 * tail, rel=1e-9)
    passes = np.stack([sure, -sure], axis=1)
    assert bald(passes, activation="sigmoid")[0] == pytest.approx(np.log(2))
    x = np.random.default_rng(0).normal(size=(50, 3))
    whole = bernoulli({"a": x, "b": x[::-1]})
    monkeypatch.setattr("mmselect.core.scores.bernoulli.BLOCK", 10)
    cut = bernoulli({"a": x, "b": x[::-1]})
    assert cut.entropy.tolist() == whole.entropy.tolist() and cut.jsd.tolist() == whole.jsd.tolist()


def test_logits_that_cannot_be_used_are_named() -> None:
    for value, said in ((np.nan, "nan"), (np.inf, r"\+inf"), (9e36, "too large")):
        x = np.zeros((3, 2))
        x[1, 0] = value
        with pytest.raises(DataError, match=rf"/x: row 1: .*{said}"):
            entropy(x, activation="sigmoid", name="/x")
        with pytest.raises(DataError, match=rf"/x: row 1: .*{said}"):
            least_confidence(x, activation="sigmoid", name="/x")
    with pytest.raises(SchemaError, match="expected shape"):
        bernoulli({"a": np.zeros((2, 3)), "b": np.zeros((2, 2))})


def test_strategies_of_uncertainty_take_multilabel(pool: Path) -> None:
    data = arrays()
    rows = np.flatnonzero(~data["labeled"])
    fused = data["multimodal_logits"][rows].astype(np.float64)
    p = 1 / (1 + np.exp(-fused))
    expected = {
        "entropy": -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=1),
        "margin": (1 - np.abs(2 * p - 1)).mean(axis=1),
        "least-confidence": np.minimum(p, 1 - p).mean(axis=1),
    }
    for name, scores in expected.items():
        table = mmselect.score(pool, name, parameters=YES)
        np.testing.assert_allclose(table.score, scores, rtol=1e-6)
        assert table.provenance["parameters"]["multilabel"] is True
        assert not np.allclose(table.score, mmselect.score(pool, name).score)
    passes = data["dropout_logits"][rows].astype(np.float64)
    found = mmselect.score(pool, "bald", parameters=YES).score
    np.testing.assert_allclose(found, bald(passes, activation="sigmoid"), rtol=1e-6)


def test_smem_and_doubt_take_multilabel(pool: Path) -> None:
    data = arrays()
    rows = np.flatnonzero(~data["labeled"])
    heads = {m: x[rows].astype(np.float64) for m, x in data["unimodal_logits"].items()}
    fused = data["multimodal_logits"][rows].astype(np.float64)
    found = mmselect.score(pool, "smem", parameters=YES)
    own = bernoulli(heads)
    main = entropy(fused, activation="sigmoid")
    np.testing.assert_allclose(found.score, own.entropy.mean(axis=0) + own.jsd + main, rtol=1e-6)
    np.testing.assert_allclose(found.components["jsd"], own.jsd, rtol=1e-6)
    u = {m: least_confidence(x, activation="sigmoid") for m, x in heads.items()}
    weights = doubt_weights({"fused": least_confidence(fused, activation="sigmoid")}, u).weights
    doubt = mmselect.score(pool, "doubt", parameters=YES)
    np.testing.assert_allclose(doubt.score, weights, rtol=1e-6)
    plain = mmselect.select(pool, "facility", 20)
    assert mmselect.select(pool, "facility", 20, parameters=YES).ids != plain.ids


@pytest.mark.parametrize("name", ["entropy", "margin", "least-confidence", "bald", "smem"])
def test_one_reading_of_the_logits_at_a_time(pool: Path, cli, name: str) -> None:
    asked = ("score", pool, "-s", name, "-p", "multilabel=true")
    assert cli(*asked, "-q").code == 0
    found = cli(*asked, "--activation", "sigmoid-norm")
    said = "activation: expected none with multilabel=true, found 'sigmoid-norm'"
    assert (found.code, found.out) == (2, "") and said in found.err
    with pytest.raises(ParameterError, match="multilabel: expected true or false"):
        mmselect.score(pool, name, parameters={"multilabel": "perhaps"})


def test_a_pool_in_which_samples_lack_a_modality(tmp_path: Path) -> None:
    data = arrays()
    there = np.arange(60) % 4 != 1
    data["unimodal_logits"]["text"][~there] = np.nan
    mmselect.write_pool(tmp_path / "a.h5", **data, present={"text": there})
    table = mmselect.score(tmp_path / "a.h5", "smem", parameters=YES)
    assert np.isfinite(table.score).all()
    alone = ~there[table.indices]
    own = entropy(
        data["unimodal_logits"]["image"][table.indices[alone]].astype(np.float64),
        activation="sigmoid",
    )
    np.testing.assert_allclose(table.components["entropy.image"][alone], own, rtol=1e-6)
    assert (table.components["jsd"][alone] == 0).all()
