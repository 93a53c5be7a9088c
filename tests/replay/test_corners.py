"""What few replays meet: warnings of many rounds, files that cannot be read, no known class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_playing import labeled_pool

import mmselect
from mmselect.errors import InputError, UsageError
from mmselect.replay import plan, runs
from mmselect.replay.data import load
from mmselect.replay.plots import contribution_curves, learning_curves, render
from mmselect.replay.rounds import Run, parse_strategy
from mmselect.replay.runs import replay
from mmselect.replay.storage import Storage

pytestmark = pytest.mark.usefixtures("few_penalties")

SMALL: dict[str, Any] = {"rounds": 1, "budget": 6, "start_budget": 20, "seeds": 2}


def test_a_warning_of_many_rounds_is_said_once() -> None:
    played = [
        Run("a", 0, [], [], ["7 copies among the picks", "odd"]),
        Run("b", 0, [], [], ["1,234 copies among the picks"]),
    ]
    found = runs._merge_warnings(played)
    assert found == ["a, b: 7 copies among the picks (2 times)", "a: odd"]


def test_a_run_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "key")
    assert storage.load("a", 0) is None
    storage.file("a", 0).mkdir()
    with pytest.raises(InputError, match=r"a-0-key\.json: cannot be read"):
        storage.load("a", 0)


def test_runs_of_another_grid_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = labeled_pool(tmp_path / "pool.h5")
    replay(path, ["random"], folder=tmp_path / "runs", **SMALL)
    monkeypatch.setattr(plan, "C_GRID", (1.0,))
    replay(path, ["random"], folder=tmp_path / "runs", **SMALL)
    assert len(list((tmp_path / "runs").iterdir())) == 4


@pytest.mark.parametrize("modalities", ["a", "abcd"])
def test_figures_of_any_number_of_modalities(tmp_path: Path, modalities: str) -> None:
    path = labeled_pool(tmp_path / "pool.h5", modalities=modalities)
    found = replay(path, ["random"], **SMALL)
    shown = render(learning_curves(found), "svg").decode()
    assert (" alone" in shown) == (len(modalities) > 1)
    assert all(f">{m}<" in render(contribution_curves(found), "svg").decode() for m in modalities)


def test_no_contribution_where_no_test_class_is_labeled(tmp_path: Path) -> None:
    """Classes 2 and 3 are only tested: the columns are empty, and the curves are drawn."""
    labels = np.arange(150) % 2
    split = np.array(["train"] * 150)
    labels[100:], split[100:] = 2 + labels[100:], "test"
    path = labeled_pool(tmp_path / "pool.h5", labels=labels, metadata={"split": split.tolist()})
    found = replay(path, ["random"], **SMALL)
    assert {row["contribution.a"] for row in found.rows} == {None}
    assert all(np.isnan(x) for x in found.columns["contribution_difference"])
    assert {row["accuracy"] for row in found.rows} == {0.0}
    assert b"<svg" in render(contribution_curves(found), "svg")


def test_strategies_see_numbers_that_are_no_labels_and_no_logits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    more = {
        "multimodal_logits": rng.standard_normal((150, 4)).astype("f4"),
        "dropout_logits": rng.standard_normal((150, 2, 4)).astype("f4"),
        "labeled": np.arange(150) < 5,
        "metadata": {"loss": rng.random(150), "caption": ["text"] * 150},
    }
    path = labeled_pool(tmp_path / "pool.h5", **more)
    with mmselect.open_pool(path) as pool:
        assert list(load(pool).columns) == ["/metadata/loss"]
    found = replay(path, ["column:loss"], **SMALL)
    values, picks = more["metadata"]["loss"], found.runs[0].picks[1]
    assert picks == sorted(picks, key=lambda row: -values[row])


def test_spread_is_said_behind_the_name_but_is_no_parameter() -> None:
    assert parse_strategy("smem:spread=d2:beta=0.5") == ("smem", {"beta": "0.5"}, "d2")
    assert parse_strategy("column:loss:spread=facility") == ("column:loss", {}, "facility")
    assert parse_strategy("entropy") == ("entropy", {}, None)
    with pytest.raises(UsageError, match="each parameter once"):
        parse_strategy("smem:spread=d2:spread=facility")
