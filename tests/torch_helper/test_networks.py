"""Systems that train networks: against their definitions taken literally, and by what they find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

import mmselect
from mmselect import tasks
from mmselect.core.scores.sraal import sraal_indicator
from mmselect.engine import Engine
from mmselect.errors import DataError, ParameterError, SelectionError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mmselect.networks import game, inputs, learning_loss, training  # noqa: E402
from mmselect.networks.adversarial import sraal, vaal  # noqa: E402
from mmselect.networks.inputs import inputs_of  # noqa: E402

NAMES = ("learning-loss", "sraal", "vaal")
FEW = {"epochs": 3, "steps": 6}


def written(path: Path, n: int = 300, **other: Any) -> Path:
    mmselect.write_pool(path, **{**arrays(n, c=7), **other})
    return path


def picked(pool: Any, name: str, k: int = 25, seed: int = 4, **how: Any) -> mmselect.Selection:
    return mmselect.select(pool, name, k, parameters=FEW, seed=seed, **how)


def bytes_of(picks: mmselect.Selection) -> tuple[bytes, bytes]:
    return picks.indices.tobytes(), picks.scores.tobytes()


# --- what the networks see --------------------------------------------------------------------


def test_inputs_are_centred_and_each_modality_has_one_scale(monkeypatch) -> None:
    monkeypatch.setattr(inputs, "BLOCK", 7)
    rng = np.random.default_rng(0)
    features = {"a": 1e4 + 1e3 * rng.normal(size=(50, 3)), "b": 1e-3 * rng.normal(size=(50, 5))}
    features["c"] = np.full((50, 2), 7.0)  # says nothing, and stays nothing
    labeled, candidates = np.arange(0, 20, 2), np.arange(1, 40, 3)
    found = inputs_of(features, labeled=labeled, candidates=candidates)
    rows = np.union1d(labeled, candidates)
    assert found.rows.tolist() == rows.tolist() and found.edges == [0, 3, 8, 10]
    assert rows[found.labeled].tolist() == labeled.tolist()
    assert rows[found.candidates].tolist() == candidates.tolist()
    for (a, b), name in zip(pairwise(found.edges), features, strict=True):
        own = features[name][rows] - features[name][rows].mean(axis=0)
        scale = np.sqrt(np.square(own).mean()) or 1.0
        np.testing.assert_allclose(found.x[:, a:b], own / scale, atol=2e-5)


# --- VAAL and SRAAL ---------------------------------------------------------------------------


def forward(network: Any, x: np.ndarray) -> np.ndarray:
    """Apply the layers of a network by hand, in float64."""
    linear = [m for m in network if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        weight, bias = (p.detach().double().numpy() for p in layer.parameters())
        x = np.maximum(x, 0) if i else x
        x = x @ weight.T + bias
    return x


def drawn(classes: np.ndarray | None = None) -> tuple[game.Game, game.Batch]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 6)).astype(np.float32)
    targets = np.where(np.arange(20) < 5, 1, rng.random(20)).astype(np.float32)
    players = game.Game.draw(x, targets, classes, rng)
    return players, players.batch(np.array([0, 3, 4]), np.array([7, 9, 11, 15, 16]))


@pytest.mark.parametrize("supervised", [False, True])
def test_the_losses_are_those_of_the_papers(supervised: bool) -> None:
    labels = np.where(np.arange(20) < 5, np.arange(20) % 3, -1)
    players, batch = drawn(labels if supervised else None)
    noise = players.noise(batch)
    rows = [[0, 3, 4], [7, 9, 11, 15, 16]]
    expected = 0.0
    seen = 0.0
    for kind, picked_noise in zip(rows, np.split(noise.numpy(), [3]), strict=True):
        x = players.x[kind].astype(np.float64)
        mean, log_variance = np.split(forward(players.encoder, x), 2, axis=1)
        code = mean + np.sqrt(np.exp(log_variance)) * picked_noise
        rebuilt = ((forward(players.decoder, code) - x) ** 2).sum(axis=1)
        divergence = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(axis=1)
        said = expit(forward(players.discriminator, mean)[:, 0])
        expected += rebuilt.mean() + game.BETA * divergence.mean() - np.log(said).mean()
        target = players.targets[kind].astype(np.float64)
        seen -= (target * np.log(said) + (1 - target) * np.log(1 - said)).mean()
        if supervised and kind == rows[0]:
            f = forward(players.head, mean)
            p = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
            expected -= np.log(p[np.arange(3), labels[kind]]).mean()
    assert players.hider_loss(batch, noise).item() == pytest.approx(expected, rel=1e-5)
    assert players.seeker_loss(batch).item() == pytest.approx(seen, rel=1e-5)


def test_each_player_moves_its_own_weights_only() -> None:
    players, batch = drawn()

    def weights(*networks: Any) -> list[float]:
        return [float(p.detach().sum()) for network in networks for p in network.parameters()]

    before = weights(players.discriminator), weights(players.encoder, players.decoder)
    training.descend(players.hider, players.hider_loss(batch, players.noise(batch)))
    assert weights(players.discriminator) == before[0]
    moved = weights(players.encoder, players.decoder)
    assert moved != before[1]
    training.descend(players.seeker, players.seeker_loss(batch))
    assert weights(players.encoder, players.decoder) == moved
    assert weights(players.discriminator) != before[0]


def two_lands(n: int = 600, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Two clusters; labels only in the first: features, labeled rows, who lives in the second."""
    rng = np.random.default_rng(seed)
    abroad = np.arange(n) % 2 == 1
    x = rng.normal(size=(n, 8)) + np.where(abroad, 3.0, -3.0)[:, None]
    labeled = np.flatnonzero(~abroad)[: n // 6]
    return {"x": x[:, :5], "y": x[:, 5:]}, labeled, abroad


def test_vaal_finds_the_land_without_labels() -> None:
    features, labeled, abroad = two_lands()
    found = vaal(inputs_of(features, labeled=labeled), np.random.default_rng(0), steps=100)
    candidates = np.setdiff1d(np.arange(600), labeled)
    first = candidates[np.argsort(found.logits)[:200]]
    assert abroad[first].mean() > 0.95  # 300 of the 500 candidates are: chance gives 0.6
    hidden, sought = found.losses[-1]
    assert hidden < found.losses[0][0] and sought < found.losses[0][1]


def test_sraal_counts_the_certain_as_labeled() -> None:
    features, labeled, abroad = two_lands()
    candidates = np.setdiff1d(np.arange(600), labeled)
    labels = np.arange(len(labeled)) % 2
    uncertain = features["x"][candidates, 0] > features["x"][candidates, 0].mean()
    data = inputs_of(features, labeled=labeled)
    # Where all are certain there is nothing to tell apart: the discriminator says 1 of everybody.
    none = sraal(data, labels, np.zeros(len(candidates)), np.random.default_rng(0), steps=100)
    assert expit(none.logits).min() > 0.9
    some = sraal(data, labels, 0.9 * uncertain, np.random.default_rng(0), steps=100)
    assert some.logits[uncertain].mean() < some.logits[~uncertain].mean() - 1
    assert abroad[candidates[uncertain]].mean() > 0.9  # the numbers above are of the other land


def test_sraal_with_indicators_of_one_is_vaal_but_for_the_head() -> None:
    players, batch = drawn()
    labels = np.where(np.arange(20) < 5, np.arange(20) % 3, -1)
    other = game.Game.draw(players.x, players.targets, labels, np.random.default_rng(1))
    vae = (players.encoder, players.decoder, players.discriminator)
    for one, two in zip(vae, (other.encoder, other.decoder, other.discriminator), strict=True):
        two.load_state_dict(one.state_dict())
    noise = players.noise(batch)
    plain = players.hider_loss(batch, noise).item()
    both = other.batch(np.array([0, 3, 4]), np.array([7, 9, 11, 15, 16]))
    mean, _ = other.encoder(both.x[:3]).chunk(2, dim=1)
    head = torch.nn.functional.cross_entropy(other.head(mean), both.classes[:3])
    assert other.hider_loss(both, noise).item() == pytest.approx(plain + head.item(), rel=1e-6)


# --- learning loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 5, 8])
def test_the_loss_of_pairs_is_the_loop(size: int) -> None:
    rng = np.random.default_rng(size)
    predicted, targets = rng.normal(size=size), rng.integers(0, 3, size).astype(float)
    targets[0] = np.inf
    even = 2 * (size // 2)
    terms = []
    for i in range(even // 2):
        j = even - 1 - i
        larger = 1 if targets[i] > targets[j] else -1 if targets[i] < targets[j] else 0
        terms.append(max(0.0, 1.0 - larger * (predicted[i] - predicted[j])))
    found = learning_loss.ranking_loss(torch.tensor(predicted), torch.tensor(targets))
    assert float(found) == pytest.approx(np.mean(terms))


def test_held_out_losses_are_those_of_heads_that_never_saw_the_row() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    labels[7] = 5  # the only one of its class
    x = (rng.normal(size=(60, 4)) + np.eye(6)[labels][:, :4] * 2).astype(np.float32)
    found = learning_loss.held_out_losses(x, labels, np.random.default_rng(3))
    assert np.flatnonzero(np.isinf(found)).tolist() == [7]
    fold = np.random.default_rng(3).permutation(60) % learning_loss.FOLDS
    means = {}
    for penalty in learning_loss.PENALTIES:
        loss = np.full(60, np.inf)
        for held in range(learning_loss.FOLDS):
            others = fold != held
            head = LogisticRegression(C=penalty, tol=1e-6, max_iter=1000)
            head.fit(x[others], labels[others])
            for row in np.flatnonzero(fold == held):
                p = dict(zip(head.classes_, head.predict_proba(x[row : row + 1])[0], strict=True))
                loss[row] = -np.log(p[labels[row]]) if labels[row] in p else np.inf
        means[penalty] = loss[np.isfinite(loss)].mean(), loss
    _, expected = min(means.values(), key=lambda pair: pair[0])
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-3)


def test_learning_loss_ranks_samples_whose_labels_are_noise_first() -> None:
    rng = np.random.default_rng(0)
    n = 1200
    x = rng.normal(size=(n, 6))
    noisy = x[:, 5] > 0.5
    labels = np.where(noisy, rng.integers(0, 2, n), (x[:, 0] > 0).astype(int))
    labeled = np.arange(0, n, 2)
    data = inputs_of({"a": x[:, :3], "b": x[:, 3:]}, labeled=labeled)
    found = learning_loss.learning_loss(data, labels[labeled], np.random.default_rng(0))
    candidates = np.setdiff1d(np.arange(n), labeled)
    first = candidates[np.argsort(-found.predicted)[:100]]
    assert noisy[first].mean() > 2 * noisy[candidates].mean()
    assert np.mean(found.losses[-50:]) < np.mean(found.losses[:50])


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [2, 2, 2, 2]])
def test_learning_loss_needs_two_classes(labels: list[int]) -> None:
    x = {"x": np.random.default_rng(0).normal(size=(9, 2))}
    data, rng = inputs_of(x, labeled=np.arange(4)), np.random.default_rng(0)
    with pytest.raises(SelectionError, match="at least 2 classes, to learn what a loss is"):
        learning_loss.learning_loss(data, np.array(labels), rng)


# --- the core's refusals ----------------------------------------------------------------------


def test_bad_arrays_are_refused() -> None:
    x = {"x": np.random.default_rng(0).normal(size=(9, 2))}
    rng, labels = np.random.default_rng(0), np.array([0, 1, 0, 1])
    data = inputs_of(x, labeled=np.arange(4))
    with pytest.raises(SelectionError, match="labeled samples and candidates, found 0 and 9"):
        inputs_of(x, labeled=np.arange(0))
    with pytest.raises(ParameterError, match="epochs: expected a whole number of at least 1"):
        vaal(data, rng, epochs=0)
    with pytest.raises(ParameterError, match="unsure: expected 5, found shape"):
        sraal(data, labels, np.zeros(4), rng)
    with pytest.raises(DataError, match="row 2: expected a class from 0 on, found -1"):
        sraal(data, np.array([0, 1, -1, 1]), np.zeros(5), rng)
    with pytest.raises(ParameterError, match="labels: expected 4, found shape"):
        learning_loss.learning_loss(data, labels[:3], rng)


def test_a_training_that_runs_away_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(game, "RATE", 1e4)
    x, rng = np.random.default_rng(0).normal(size=(400, 2)), np.random.default_rng(0)
    with pytest.raises(SelectionError, match=r"expected a loss that is a number, found .* in step"):
        vaal(inputs_of({"x": x}, labeled=np.arange(20)), rng, steps=20)


# --- through the front door -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_read_for_labeled_rows_only(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5")
    before = picked(path, name)
    with h5py.File(path, "r+") as handle:
        labels, labeled = handle["label"][:], handle["labeled"][:]
        labels[~labeled] = np.random.default_rng(0).integers(-1, 7, (~labeled).sum())
        handle["label"][:] = labels
    assert bytes_of(picked(path, name)) == bytes_of(before)
    with h5py.File(path, "r+") as handle:
        handle["label"][:] = np.random.default_rng(1).permutation(7)[labels.clip(0)]
        handle["label"][0] = (handle["label"][0] + 1) % 7
    changed = bytes_of(picked(path, name)) != bytes_of(before)
    assert changed == (name != "vaal")  # where they are read, they count


@pytest.mark.parametrize("name", NAMES)
def test_excluded_rows_take_no_part(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5")
    data = arrays(300, c=7)
    excluded = np.flatnonzero(~data["labeled"])[::5]
    ids = [data["ids"][row] for row in excluded]
    before = picked(path, name, exclude=ids)
    assert not set(before.indices) & {*excluded, *np.flatnonzero(data["labeled"])}
    with h5py.File(path, "r+") as handle:
        for dataset in ("features/image", "multimodal_logits"):
            values = handle[dataset][:]
            values[excluded] = np.nan
            handle[dataset][:] = values
    assert bytes_of(picked(path, name, exclude=ids)) == bytes_of(before)


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_once_nested_and_by_the_seed(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5", 90)
    candidates = np.flatnonzero(~arrays(90, c=7)["labeled"])
    whole = picked(path, name, len(candidates))
    assert sorted(whole.indices) == candidates.tolist()
    assert picked(path, name, 20).indices.tolist() == whole.indices[:20].tolist()
    assert (np.diff(whole.scores) <= 0).all()
    assert picked(path, name, 20, seed=5).indices.tolist() != whole.indices[:20].tolist()
    with pytest.raises(mmselect.MmselectError, match="at most 75 candidates, found 76"):
        picked(path, name, 76)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_whatever_threads_memory_shards_and_storage(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "COMPUTE_BLOCK_ELEMENTS", 16 * 70)  # many blocks in a small pool
    data = arrays(300, c=7)
    whole = tmp_path / "whole.h5"
    mmselect.write_pool(whole, **data)
    expected = bytes_of(picked(whole, name, threads=1))
    kept = ("classifier_weight", "classifier_bias", "class_names")

    def cut(value: Any, a: int, b: int) -> Any:
        if isinstance(value, dict):
            return {key: cut(each, a, b) for key, each in value.items()}
        return value[a:b]

    shards = []
    for i, (a, b) in enumerate(pairwise((0, 37, 200, 300))):
        shards.append(tmp_path / f"{i}.h5")
        part = {key: v if key in kept else cut(v, a, b) for key, v in data.items()}
        mmselect.write_pool(shards[-1], **part)
    with h5py.File(shards[1], "r+") as handle:
        for path in ("features/image", "multimodal_logits", "label"):
            values = handle[path][()]
            del handle[path]
            handle.create_dataset(path, data=values, chunks=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for pool, threads, memory in ((whole, 3, 1), (shards, 1, 50_000), (shards, 4, 10**9)):
        assert bytes_of(picked(pool, name, threads=threads, memory=memory)) == expected
    assert torch.get_num_threads() == 2  # as it was found
    torch.set_num_threads(before)


OTHER_PROCESSOR = """
import sys, numpy as np, torch
from mmselect.networks.adversarial import vaal
from mmselect.networks.inputs import inputs_of
from mmselect.networks.learning_loss import learning_loss
x = np.random.default_rng(0).normal(size=(300, 8))
data = inputs_of({"x": x}, labeled=np.arange(60))
labels = (x[:60, 0] + 0.3 * x[:60, 1] > 0).astype(int)
logits = vaal(data, np.random.default_rng(1), steps=40).logits
predicted = learning_loss(data, labels, np.random.default_rng(1), steps=40).predicted
print(torch.backends.cpu.get_cpu_capability(), *np.argsort(logits)[:80])
print(*np.argsort(-predicted)[:80])
"""


def test_another_processor_picks_nearly_the_same() -> None:
    def run(**settings: str) -> tuple[str, list[str]]:
        command = [sys.executable, "-c", OTHER_PROCESSOR]
        environment = {**os.environ, **settings}
        found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        capability, *picks = found.stdout.split()
        return capability, picks

    plain = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    (_, own), (other, theirs) = run(), run(**plain)
    assert other in ("DEFAULT", "default")
    for one, two in ((own[:80], theirs[:80]), (own[80:], theirs[80:])):
        assert len({*one} & {*two}) >= 76  # rounding, amplified by training, moves few


@pytest.mark.parametrize("name", NAMES)
def test_without_labeled_rows_it_says_what_is_missing(tmp_path: Path, cli, name: str) -> None:
    path = written(tmp_path / "a.h5", labeled=np.zeros(300, bool))
    found = cli("select", path, "-s", name, "-b", 5)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert f"strategy {name} needs labeled samples" in found.err


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_used_is_named(tmp_path: Path, cli, name: str) -> None:
    path = written(tmp_path / "a.h5")
    spoiled = ["features/text"] + ["multimodal_logits"] * (name == "sraal")
    for dataset in spoiled:
        for value, said in ((np.nan, "expected finite"), (9.97e36, "too large")):
            with h5py.File(path, "r+") as handle:
                before = handle[dataset][41, 1]
                handle[dataset][41, 1] = value
            found = cli("select", path, "-s", name, "-b", 5)
            assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
            assert f"a.h5: /{dataset}: row 41: {said}" in found.err
            with h5py.File(path, "r+") as handle:
                handle[dataset][41, 1] = before
    if name == "vaal":
        return
    with h5py.File(path, "r+") as handle:
        handle["label"][12] = -1
    found = cli("select", path, "-s", name, "-b", 5)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert "a.h5: /label: row 12: expected a class from 0" in found.err


def test_what_was_done_is_in_the_provenance(pool: Path, cli) -> None:
    for name in NAMES:
        asked = ("-s", name, "-b", 5, "--format", "json", "-q", "-p", "steps=4")
        told = json.loads(cli("select", pool, *asked).out)["provenance"]
        assert told["parameters"]["steps"] == told["steps"] == 4
        assert len(told["loss"]) == 2
    assert "torch (pip install 'mmselect[torch]')" in cli("strategies").out


def test_the_strategy_hands_sraal_the_indicator_of_the_logits(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5")
    data = arrays(300, c=7)
    labeled = np.flatnonzero(data["labeled"])
    candidates = np.flatnonzero(~data["labeled"])
    found = sraal(
        inputs_of(data["features"], labeled=labeled, engine=Engine(threads=1)),
        data["labels"][labeled],
        sraal_indicator(data["multimodal_logits"][candidates]),
        np.random.default_rng(4),
        **FEW,
    )
    expected = candidates[np.argsort(found.logits, kind="stable")[:25]]
    assert picked(path, "sraal").indices.tolist() == expected.tolist()
