"""First batches alone: every start and budget, against the round 0 of ordinary replays."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from scipy import stats
from test_playing import labeled_pool

from mmselect.errors import UsageError
from mmselect.replay import Replay, replay, summarize

pytestmark = pytest.mark.usefixtures("few_penalties")

STARTS = ("coreset", "mmcsal:alignment=0:steps=2", "random")
BUDGETS = ("10%", 20)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labeled_pool(tmp_path_factory.mktemp("known") / "known.h5")


@pytest.fixture(scope="module")
def found(known: Path) -> Replay:
    return replay(known, rounds=0, start=STARTS, budget=BUDGETS, seeds=2)


def test_a_first_batch_is_where_a_replay_begins(known: Path, found: Replay) -> None:
    assert [row["labeled"] for row in found.rows] == [12, 20] * 6
    for run in (run for run in found.runs if run.seed == 1):
        for i, budget in enumerate(BUDGETS):
            how = {"start": run.strategy, "start_budget": budget, "seed": run.seed, "seeds": 1}
            (other,) = replay(known, ["random"], rounds=1, budget=1, **how).runs
            assert run.picks[i] == other.picks[0]
            assert {**run.rounds[i], "round": 0} == other.rounds[0]


def test_differences_are_paired_and_corrected_for_the_starts(found: Replay) -> None:
    rows, curves = summarize(found)["strategies"], found.curves("accuracy")
    for name in STARTS[:2]:
        for j in range(2):
            d = curves[name][:, j] - curves["random"][:, j]
            plain = stats.ttest_1samp(d, 0).confidence_interval(1 - 0.05 / 2)
            assert rows[name]["difference"]["accuracy"][j] == pytest.approx((d.mean(), *plain))
    assert np.all(np.array(rows["random"]["difference"]["accuracy"]) == 0)


def test_a_budget_more_plays_that_alone(known: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    how: dict[str, Any] = {"rounds": 0, "start": ["random", "kmeans"], "folder": tmp_path / "runs"}
    few = replay(known, **how, budget=20, seeds=2)
    more = replay(known, **how, budget="10%,20", seeds=2, progress=lambda *a: told.append(a))
    assert told[-1] == (4, 4)
    assert [run.picks[1] for run in more.runs] == [run.picks[0] for run in few.runs]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 1}, "start: expected one, found 3; several are for --rounds 0"),
        ({"rounds": 1, "start": "random"}, "budget: expected one, found 2"),
        ({"strategies": ["random"]}, "strategies: expected nothing, since only --start and"),
        ({"start_budget": 5}, "start_budget: expected nothing"),
        ({"group": "site:1"}, "group: expected nothing"),
        ({"start": "labeled"}, "start: expected strategies"),
        ({"start": "random,random"}, "start: expected each once, found random again"),
        ({"budget": "0%,5"}, "budget: expected"),
    ],
)
def test_what_cannot_be_compared(known: Path, change: dict[str, Any], words: str) -> None:
    how = {"rounds": 0, "start": STARTS, "budget": BUDGETS, "seeds": 1}
    with pytest.raises(UsageError, match=words):
        replay(known, **how | change)


def test_text_files_and_page(cli: Callable[..., Result], known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    play = ["replay", known, "--rounds", "0", "--start", "coreset,random", "-b", "10%,20"]
    found = cli(*play, "--seeds", "2", "--report", folder)
    assert found.code == 0
    assert re.search(r"^first batch alone  10% \(12\) +20\ncoreset +\d", found.out, re.MULTILINE)
    assert re.search(r"^against random +10% \(12\) +20\ncoreset +[+-]\d", found.out, re.MULTILINE)
    assert re.search(r"^2 seeds see +10% \(12\)", found.out, re.MULTILINE)
    assert all(len(line) <= 80 for line in found.out.splitlines()[1:])
    page = (folder / "report.html").read_text()
    assert "The first batch alone" in page and "Pairwise" not in page
    rows = list(csv.DictReader(io.StringIO((folder / "rounds.csv").read_text())))
    assert [row["labeled"] for row in rows] == ["12", "20"] * 4
    summary = json.loads((folder / "replay.json").read_text())["summary"]
    assert summary["labeled"] == [12, 20] and summary["strategies"]["coreset"]["visible"]
    refused = cli(*play, "--target", "0.5")
    assert refused.code == 2 and "target: expected rounds" in refused.err
