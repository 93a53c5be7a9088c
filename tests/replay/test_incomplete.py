"""A replay in which some samples lack a modality."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result

import mmselect
from mmselect.replay.data import load
from mmselect.replay.heads import fit_heads, logits, scales, views
from mmselect.replay.linear import outputs
from mmselect.replay.measures import measure

pytestmark = pytest.mark.usefixtures("few_penalties")

N = 240


def write(path: Path, poison: float) -> dict[str, np.ndarray]:
    """Four classes; 30 % lack the text, some others the image, and `poison` stands there."""
    rng = np.random.default_rng(0)
    y, centre = rng.integers(0, 4, N), rng.normal(size=(4, 6))
    z = {m: (centre[y] + 0.8 * rng.normal(size=(N, 6)) + 3).astype("f4") for m in ("image", "text")}
    has = {"text": rng.random(N) > 0.3}
    has["image"] = (rng.random(N) > 0.2) | ~has["text"]
    for name, mask in has.items():
        z[name][~mask] = poison
    mmselect.write_pool(path, features=z, present=has, labels=y)
    return has


def test_a_head_is_fitted_and_tested_on_those_who_have_its_modality(tmp_path: Path) -> None:
    has = write(tmp_path / "pool.h5", np.nan)
    with mmselect.open_pool(tmp_path / "pool.h5") as pool:
        data = load(pool)
    for name, z in data.features.items():  # centred; absent ones are zeros
        assert (z[~has[name]] == 0).all() and np.abs(z[has[name]].mean(axis=0)).max() < 1e-5
    rows, rest = np.arange(150), np.arange(150, N)
    present = data.present(np.arange(N))
    scale, penalties = scales(data.features, present), dict.fromkeys(views(["image", "text"]), 1.0)
    labels = data.labels[rows]
    heads = fit_heads(data.features, rows, labels, 4, penalties, scale, present=present)
    own = rows[has["text"][rows]]
    cut = {"text": data.features["text"][own]}
    alone = fit_heads(cut, np.arange(len(own)), data.labels[own], 4, {("text",): 1.0}, scale)
    assert np.allclose(heads[("text",)].weight, alone[("text",)].weight)
    wide = np.square(cut["text"], dtype=np.float64).mean()
    some = scales(data.features, {"text": np.isin(np.arange(N), own)})
    assert np.isclose(some["text"], wide**-0.5)
    held = {m: z[rest] for m, z in data.features.items()}
    found = measure(outputs(held, heads), data.labels[rest], None, data.present(rest))
    seen = rest[has["text"][rest]]
    guess = logits(data.features, ("text",), heads[("text",)])[seen].argmax(axis=1)
    assert found["accuracy.text"] == (guess == data.labels[seen]).mean()
    assert found["accuracy"] is not None and found["accuracy"] > 0.5


def test_heads_of_too_few_samples_say_the_class_that_there_is() -> None:
    features = {m: np.ones((6, 2), "f4") for m in "ab"}
    labels, has = np.array([0, 1, 0, 1, 0, 1]), {"b": np.arange(6) % 2 == 0}
    penalties = dict.fromkeys(views(["a", "b"]), 1.0)
    scale = scales(features, has)
    heads = fit_heads(features, np.arange(6), labels, 3, penalties, scale, present=has)
    assert logits(features, ("b",), heads[("b",)]).argmax(axis=1).tolist() == [0] * 6
    nobody = {"b": np.zeros(6, bool)}
    heads = fit_heads(features, np.arange(6), labels, 3, penalties, scale, present=nobody)
    assert (logits(features, ("b",), heads[("b",)]) == 0).all()


def test_a_replay_reads_no_number_of_an_absent_modality(
    tmp_path: Path, cli: Callable[..., Result]
) -> None:
    said = []
    for poison in (np.nan, 77.0):
        write(tmp_path / "pool.h5", poison)
        strategies = "random,facility,bmmal,smem,coreset,mmcsal:steps=5"
        how = ["--budget", "12", "--rounds", "2", "--seeds", "1", "-s", strategies]
        found = cli("replay", tmp_path / "pool.h5", *how, "--start", "facility", "--format", "json")
        assert found.code == 0, found.err
        said.append(json.loads(found.out))
    for one in said:
        for row in one["rounds"]:
            row.pop("seconds", None)
    assert said[0]["rounds"] == said[1]["rounds"] and said[0]["picks"] == said[1]["picks"]
    assert len(said[0]["rounds"]) == 6 * 3
