"""A replay: what strategies see, what is the same for all of them, and what it goes on from."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import LISTENING, arrays

import mmselect
from mmselect.ask import Replaying
from mmselect.errors import MmselectError, NeedsError, SelectionError, UsageError
from mmselect.replay import heads, plan, rounds
from mmselect.replay.data import Oracle, load, part
from mmselect.replay.heads import C_GRID, FOLDS
from mmselect.replay.linear import LinearTrainer
from mmselect.replay.runs import Replay, replay
from mmselect.strategies import registry
from mmselect.strategies.record import Batch, Picks, Strategy, need

pytestmark = pytest.mark.usefixtures("few_penalties")

SMALL: dict[str, Any] = {"rounds": 2, "budget": 6, "start_budget": 20, "seeds": 2}
STARTS = ("random", "mmcsal:steps=5", "activeft:steps=5", "kmeans", "coreset", "facility")


def labeled_pool(path: Path, modalities: str = "ab", **more: Any) -> Path:
    """Classes that each modality sees a little of."""
    n, c = 150, 4
    rng = np.random.default_rng(5)
    labels = rng.integers(0, c, n)
    centres = {m: rng.standard_normal((c, 6)) for m in modalities}
    features = {
        m: (1.5 * z[labels] + rng.standard_normal((n, 6))).astype(np.float32)
        for m, z in centres.items()
    }
    given = {"features": features, "labels": labels, **more}
    mmselect.write_pool(path, **given)
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return labeled_pool(tmp_path / "known.h5")


def untimed(found: Replay) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows]


def test_hidden_labels_change_nothing(tmp_path: Path) -> None:
    """Labels that no strategy revealed are poisoned: not one pick or measure changes."""
    split = np.where(np.arange(150) % 4 == 0, "test", "train").tolist()
    path = labeled_pool(tmp_path / "pool.h5", metadata={"split": split})
    for strategy in ("bmmal", "badge", "smem", "smem:spread=d2", "entropy", "coreset", "kmeans"):
        before = replay(path, [strategy], **SMALL | {"seeds": 1})
        revealed = {row for batch in before.runs[0].picks for row in batch}
        hidden = [i for i in range(150) if i % 4 and i not in revealed]
        assert len(hidden) > 50
        poisoned = tmp_path / "poisoned.h5"
        poisoned.write_bytes(path.read_bytes())
        with h5py.File(poisoned, "r+") as handle:
            labels = handle["label"][:]
            labels[hidden] = (labels[hidden] + 1) % 4
            handle["label"][:] = labels
        after = replay(poisoned, [strategy], **SMALL | {"seeds": 1})
        assert after.runs[0].picks == before.runs[0].picks
        assert untimed(after) == untimed(before)


def test_a_strategy_that_looks_for_labels_finds_the_revealed_ones(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(known) as handle:
        truth = handle["label"][:]
    seen: list[int] = []

    def spy(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
        mask = batch.columns["/labeled"][:]
        assert np.array_equal(np.flatnonzero(mask), batch.labeled)
        assert batch.labels is not None and (batch.labels >= 0).all()
        assert "/label" not in batch.columns  # so that no other label can be read
        seen.append(int(mask.sum()))
        return Picks(rng.permutation(len(batch.candidates))[:k])

    record = Strategy("spy", "batch", "looks", spy, (need("/label"), need("/labeled")))
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "spy": record})
    found = replay(known, ["spy"], **SMALL)
    assert seen == [20, 26, 20, 26]
    for run in found.runs:
        rows = [row for batch in run.picks for row in batch]
        assert len(rows) == len(set(rows)) == 32
        assert run.rounds[0]["coverage"] == len({*truth[run.picks[0]]}) / 4


def test_all_strategies_start_alike_and_seeds_do_not(known: Path) -> None:
    found = replay(known, ["random", "entropy", "bmmal"], **SMALL)
    first = {(run.strategy, run.seed): run.picks[0] for run in found.runs}
    for seed in (0, 1):
        assert first["random", seed] == first["entropy", seed] == first["bmmal", seed]
    assert first["random", 0] != first["random", 1]
    zero = [row for row in untimed(found) if row["round"] == 0 and row["seed"] == 0]
    assert len({json.dumps({**row, "strategy": ""}) for row in zero}) == 1


@pytest.mark.parametrize("start", STARTS)
def test_every_cold_start(known: Path, start: str) -> None:
    found = replay(known, ["random"], **SMALL | {"start": start})
    assert [row["labeled"] for row in found.rows] == [20, 26, 32] * 2
    assert len(set(found.runs[0].picks[0])) == 20


def test_the_start_from_what_is_labeled(tmp_path: Path) -> None:
    mask = np.arange(150) < 30
    split = np.where(np.arange(150) % 3 == 0, "test", "train").tolist()
    path = labeled_pool(tmp_path / "pool.h5", labeled=mask, metadata={"split": split})
    found = replay(path, ["entropy"], **SMALL | {"start": "labeled"})
    expected = [i for i in range(30) if i % 3]
    assert [run.picks[0] for run in found.runs] == [expected, expected]


def test_processes_and_stored_runs_change_nothing(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (heads, plan):  # other processes know no other grid, and no other folds
        monkeypatch.setattr(module, "C_GRID", C_GRID)
    monkeypatch.setattr(heads, "FOLDS", FOLDS)
    told: list[tuple[int, int]] = []

    def played(**more: Any) -> Replay:
        told.clear()
        return replay(
            known, ["badge", "random"], progress=lambda *a: told.append(a), **SMALL, **more
        )

    plain, folder = played(), tmp_path / "runs"
    parallel = played(jobs=2, folder=folder)
    assert told[0] == (0, 6) and told[-1] == (6, 6)
    assert untimed(parallel) == untimed(plain)
    assert [run.picks for run in parallel.runs] == [run.picks for run in plain.runs]
    stored = sorted(folder.iterdir())
    assert len(stored) == 4
    stored[0].unlink()
    again = played(folder=folder)
    assert told[-1] == (2, 2)  # one start, one run
    assert untimed(again) == untimed(plain)
    assert played(folder=folder).rows == again.rows
    assert told == []


def test_runs_of_other_settings_or_other_labels_are_not_taken(known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    replay(known, ["random"], folder=folder, **SMALL)
    replay(known, ["random"], folder=folder, **SMALL | {"budget": 7})
    assert len(list(folder.iterdir())) == 4
    with h5py.File(known, "r+") as handle:
        handle["label"][77] = (handle["label"][77] + 1) % 4
    replay(known, ["random"], folder=folder, **SMALL)
    assert len(list(folder.iterdir())) == 6
    with h5py.File(known, "r+") as handle:
        handle["features/b"][101, 3] += 1
    replay(known, ["random"], folder=folder, **SMALL)
    assert len(list(folder.iterdir())) == 8


def test_a_stored_run_that_is_none_is_named(known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    replay(known, ["random"], folder=folder, **SMALL)
    place = sorted(folder.iterdir())[0]
    place.write_text('{"key": "x"}')
    with pytest.raises(MmselectError, match=f"{place.name}: expected a finished run"):
        replay(known, ["random"], folder=folder, **SMALL)


def test_interrupted_and_played_on(known: Path, tmp_path: Path) -> None:
    code = f"{LISTENING}import sys; from mmselect.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "replay", str(known), "-s", "bmmal,random"]
    command += ["-b", "5", "--start-budget", "12", "--rounds", "3", "--seeds", "400"]
    command += ["--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "runs").glob("bmmal-1-*.json")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "" and "the same command goes on" in err and "error: interrupted" in err
    finished = {p.name: p.read_text() for p in (tmp_path / "runs").glob("*.json")}
    assert 0 < len(finished) < 800
    for text in finished.values():
        json.loads(text)
    assert len(list((tmp_path / "runs").iterdir())) == len(finished)


def test_test_samples_are_never_picked(known: Path) -> None:
    with mmselect.open_pool(known) as pool:
        data = load(pool)
    for seed in range(3):
        train, test = part(data, seed, 0.3)
        assert len(test) == 45 and not set(train) & set(test)
        assert sorted([*train, *test]) == list(range(150))
        run = replay(known, ["coreset"], **SMALL | {"seed": seed, "seeds": 1}, test_fraction=0.3)
        assert not {row for batch in run.runs[0].picks for row in batch} & set(test.tolist())


def test_unknown_labels_and_other_splits_take_no_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    split = rng.choice(["train", "test", "validation"], 150).tolist()
    labels = np.where(rng.random(150) < 0.2, -1, rng.integers(0, 3, 150))
    path = labeled_pool(tmp_path / "pool.h5", labels=labels, metadata={"split": split})
    found = replay(path, ["random"], **SMALL)
    allowed = {i for i in range(150) if labels[i] >= 0 and split[i] == "train"}
    assert {row for run in found.runs for batch in run.picks for row in batch} <= allowed
    whole = replay(path, ["random"], **SMALL, test_fraction=0.25)
    assert whole.settings["pool"]["samples"] == (labels >= 0).sum()


@pytest.mark.parametrize("modalities", ["a", "abc"])
def test_any_number_of_modalities(tmp_path: Path, modalities: str) -> None:
    path = labeled_pool(tmp_path / "pool.h5", modalities=modalities)
    found = replay(path, ["bmmal", "smem", "random"], **SMALL)
    row = found.rows[-1]
    assert {f"accuracy.{m}" for m in modalities} <= row.keys()
    assert sum(row[f"contribution.{m}"] for m in modalities) == pytest.approx(1)


def test_an_oracle_gives_out_what_it_is_asked_for() -> None:
    oracle = Oracle(np.array([3, 1, 2]))
    oracle.reveal(np.array([2]))
    assert oracle.known.tolist() == [-1, -1, 2] and oracle.rows.tolist() == [2]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"budget": 100}, SelectionError, "20 at the start and 2 rounds of 100"),
        ({"start_budget": 500}, SelectionError, "at most the 120 samples"),
        ({"start": "labeled"}, SelectionError, "start labeled: expected labeled samples"),
        ({"start": "bmmal"}, NeedsError, "bmmal needs"),
        ({"strategies": ["bald"]}, NeedsError, "bald needs /dropout_logits"),
        ({"strategies": ["nosuch"]}, UsageError, "found 'nosuch'"),
        ({"strategies": ["smem:beta"]}, UsageError, "NAME:PARAMETER=VALUE, found 'beta'"),
        ({"strategies": ["smem:bta=1"]}, UsageError, "expected one of"),
        ({"strategies": ["smem:beta=1:beta=2"]}, UsageError, "each parameter once"),
        ({"strategies": ["random", "random"]}, UsageError, "each once, found random again"),
        ({"test_fraction": 1.5}, UsageError, "between 0 and 1, found 1.5"),
        ({"test_fraction": 0.001}, UsageError, "on both sides of 150"),
        ({"rounds": -1}, UsageError, "rounds: expected a whole number of at least 0, found -1"),
        ({"start_budget": 1, "seed": 2**33}, SelectionError, "at least 2 classes"),
        ({"start_budget": 2, "seeds": 8}, SelectionError, "at least 2 classes"),
    ],
)
def test_what_cannot_be_played(
    known: Path, change: dict[str, Any], error: type[MmselectError], words: str
) -> None:
    arguments = {"strategies": ["random"], **SMALL, **change}
    with pytest.raises(error, match=words):
        replay(known, arguments.pop("strategies"), **arguments)


def test_pools_that_cannot_be_played(tmp_path: Path) -> None:
    bare = tmp_path / "bare.h5"
    mmselect.write_pool(bare, multimodal_logits=np.zeros((5, 2)))
    with pytest.raises(NeedsError, match=r"bare.h5: replay needs /features and /label"):
        replay(bare)
    unlabeled = labeled_pool(tmp_path / "none.h5", labels=np.full(150, -1))
    with pytest.raises(SelectionError, match="samples with a known label, found none"):
        replay(unlabeled)
    odd = labeled_pool(tmp_path / "odd.h5", metadata={"split": ["dev"] * 150})
    with pytest.raises(MmselectError, match=r"/metadata/split: expected train and test .* dev"):
        replay(odd)
    given = arrays()
    given["features"]["text"][17, 2] = np.nan
    mmselect.write_pool(tmp_path / "nan.h5", **given)
    with pytest.raises(MmselectError, match=r"nan.h5: /features/text: row 17"):
        replay(tmp_path / "nan.h5")


def test_what_a_strategy_sees_is_one_model(known: Path) -> None:
    """The logits of the snapshot are those of the classifier in it."""
    with mmselect.open_pool(known) as pool:
        data = load(pool)
    start = rounds.begin(data, Replaying(start_budget=30, budget=5), 0, LinearTrainer)
    trainer = LinearTrainer(data, start.train, start.test, 0)
    features = {m: z[start.train] for m, z in data.features.items()}
    oracle = Oracle(data.labels[start.train])
    oracle.reveal(start.labeled)
    seen = rounds.snapshot(data, start.train, oracle.known, trainer.seen(start.model))
    weights = [seen.constants[f"/classifier/weight/{m}"] for m in ("a", "b")]
    f = features["a"] @ weights[0].T + features["b"] @ weights[1].T
    f += seen.constants["/classifier/bias"]
    assert np.allclose(seen.columns["/multimodal_logits"][:], f, atol=1e-4)
    head = start.model.heads[("a",)]
    alone = features["a"] @ head.weight.T + head.bias
    assert np.allclose(seen.columns["/unimodal_logits/a"][:], alone, atol=1e-4)
