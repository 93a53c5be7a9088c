"""The papers' figures: matrix of wins, classes, confidence of the picks, the line of all labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Result
from scipy import stats
from scipy.special import softmax
from test_playing import labeled_pool

import mmselect
from mmselect.ask import Replaying
from mmselect.replay import replay, summarize
from mmselect.replay.by_class import class_gains
from mmselect.replay.data import load
from mmselect.replay.heads import fit_heads, logits, scales
from mmselect.replay.linear import LinearTrainer, outputs
from mmselect.replay.measures import measure
from mmselect.replay.picked import confidence_bins, truth_ranks
from mmselect.replay.rounds import Run, begin

pytestmark = pytest.mark.usefixtures("few_penalties")

SMALL: dict[str, Any] = {"rounds": 3, "budget": 8, "start_budget": 12, "seeds": 3}
NAMES = ["entropy", "coreset", "random"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ["red", "green", "blue", "other"]
    return labeled_pool(tmp_path_factory.mktemp("figures") / "known.h5", class_names=names)


def test_the_matrix_of_wins_by_loops(known: Path) -> None:
    found = replay(known, NAMES, **SMALL)
    summary, curves = summarize(found), found.curves("accuracy")
    matrix = np.zeros((3, 3))
    for i, a in enumerate(NAMES):
        for j, b in enumerate(NAMES):
            for r in (1, 2, 3):
                d = curves[a][:, r] - curves[b][:, r]
                if i != j and np.ptp(d) and stats.ttest_1samp(d, 0).pvalue < 0.1 and d.mean() > 0:
                    matrix[i, j] += 1 / 3
    assert np.allclose(summary["wins"]["accuracy"], matrix)
    lost = [sum(matrix[i, j] for i in range(3) if i != j) / 2 for j in range(3)]
    assert summary["beaten"]["accuracy"] == pytest.approx(lost)


def test_gains_of_classes_by_loops() -> None:
    rng = np.random.default_rng(0)
    values = {n: rng.integers(0, 9, (2, 25)) / 8 for n in ("a", "random")}
    heads = {n: [{"accuracy": [*v.tolist(), None]} for v in vs] for n, vs in values.items()}
    runs = [Run(n, s, [{}], [], [], heads[n][s]) for n in values for s in (0, 1)]
    found = class_gains(runs, "random", ["a", "random"], None)["a"]
    gains = {}
    for k in range(25):
        gains[str(k)] = np.mean([values["a"][s, k] - values["random"][s, k] for s in (0, 1)])
    best = [x for x in sorted(gains.values())[::-1] if x > 0][:10]
    worst = [x for x in sorted(gains.values()) if x < 0][:10]
    assert len(best) < 10 == len(worst)
    assert [row["difference"] for row in found["improved"]] == pytest.approx(best)
    assert [row["difference"] for row in found["dropped"]] == pytest.approx(worst)
    for row in [*found["improved"], *found["dropped"]]:
        assert row["difference"] == pytest.approx(gains[row["class"]])
    assert class_gains([Run("a", 0, [{}], [], [])], "a", ["a"], None) == {}  # stored before


def test_ranks_are_those_of_the_samples_that_a_head_has_not_seen() -> None:
    rng = np.random.default_rng(1)
    z = {"a": rng.standard_normal((30, 3)).astype("f4")}
    labels, seen = rng.integers(0, 3, 30), rng.random(30) < 0.3
    rows = np.flatnonzero(seen)
    penalties, scale = {("a",): 1.0}, scales(z)
    head = fit_heads(z, rows, labels[rows], 3, penalties, scale)[("a",)]
    chance = softmax(logits(z, ("a",), head), axis=1)[np.arange(30), labels]
    ranks = truth_ranks(chance[~seen], seen)
    for i in range(30):
        others = [j for j in range(30) if not seen[j]]
        below = sum(chance[j] < chance[i] for j in others) + 0.5
        assert ranks[i] == (-1 if seen[i] else round(1000 * below / len(others)))


def test_bins_by_loops(known: Path) -> None:
    found = replay(known, NAMES, **SMALL)
    expected: dict[str, list[list[float]]] = {n: [] for n in NAMES}
    for seed in range(3):
        runs = [run for run in found.runs if run.seed == seed]
        when = [{row: r for r, batch in enumerate(run.picks) for row in batch} for run in runs]
        for run, at in zip(runs, when, strict=True):
            for row, heads in enumerate(run.heads):
                trained = any(run.ranks) and (heads or row in at)
                assert not trained or heads == at.get(row, 4)
        total = {i: sum(run.heads[i] for run in runs) for i in range(len(runs[0].heads))}
        mean = {i: sum(r.ranks[i] for r in runs) / n for i, n in total.items() if n}
        order = sorted(mean.values())
        for run in runs:
            counts = [0] * 5
            for row in (row for batch in run.picks[1:] for row in batch):
                ties = [i for i, x in enumerate(order) if x == mean[row]]
                counts[int(5 * (np.mean(ties) + 0.5) / len(order))] += 1
            expected[run.strategy].append([c / sum(counts) for c in counts])
    bins = confidence_bins(found.runs, NAMES, 1)
    for name in NAMES:
        assert bins[name] == pytest.approx(np.mean(expected[name], axis=0))


def test_entropy_picks_what_is_hard(known: Path) -> None:
    bins = summarize(replay(known, ["entropy", "random"], **SMALL))["bins"]
    assert sum(bins["entropy"][:2]) > sum(bins["random"][:2])


def test_the_line_of_all_labels(known: Path) -> None:
    found = replay(known, ["random"], **SMALL | {"seeds": 2}, full=True)
    with mmselect.open_pool(known) as pool:
        data = load(pool)
    for seed, run in enumerate(found.full):
        ask = Replaying(start_budget=12, budget=8)
        start = begin(data, ask, seed, LinearTrainer)
        z = {m: x[start.train] for m, x in data.features.items()}
        every = np.arange(len(start.train))
        heads = fit_heads(z, every, data.labels[start.train], 4, start.model.penalties, scales(z))
        held = {m: x[start.test] for m, x in data.features.items()}
        cold = measure(outputs(held, heads), data.labels[start.test])
        assert run.rounds[0]["labeled"] == 120
        assert run.rounds[0]["accuracy"] == pytest.approx(cold["accuracy"], abs=0.04)
    assert summarize(found)["full"]["accuracy"][0] == pytest.approx(
        np.mean([run.rounds[0]["accuracy"] for run in found.full])
    )
    assert [run.strategy for run in found.runs] == ["random"] * 2


def test_runs_stored_before_are_read(
    cli: Callable[..., Result], known: Path, tmp_path: Path
) -> None:
    play = ["replay", known, "-s", "entropy,random", "-b", "6", "--rounds", "1", "--seeds", "2"]
    play += ["--start-budget", "12", "--runs", tmp_path / "runs"]
    first = cli(*play)
    assert "picks by confidence" in first.out
    assert re.search(r"entropy improves +points +and drops +points", first.out)
    for place in (tmp_path / "runs").iterdir():
        content = json.loads(place.read_text())
        for name in ("recalls", "ranks", "heads"):
            del content[name]
        place.write_text(json.dumps(content))
    again = cli(*play)
    assert again.code == 0 and "picks by confidence" not in again.out
    assert "stored by an earlier version, without classes and confidence" in again.err
    assert again.out.startswith(first.out[: first.out.index("2 seeds see")])


def test_labels_never_revealed_describe_the_picks_and_nothing_else(
    known: Path, tmp_path: Path
) -> None:
    """What is measured of heads and what strategies pick does not follow hidden labels."""
    split = np.where(np.arange(150) % 4 == 0, "test", "train").tolist()
    path = labeled_pool(tmp_path / "pool.h5", metadata={"split": split})
    before = replay(path, ["entropy"], **SMALL | {"seeds": 1}).runs[0]
    with h5py.File(path, "r+") as handle:
        labels, shown = handle["label"][:], [row for batch in before.picks for row in batch]
        hidden = [i for i in range(150) if i % 4 and i not in shown]
        labels[hidden] = (labels[hidden] + 1) % 4
        handle["label"][:] = labels
    after = replay(path, ["entropy"], **SMALL | {"seeds": 1}).runs[0]
    assert after.picks == before.picks and after.recalls == before.recalls
    assert after.ranks != before.ranks
