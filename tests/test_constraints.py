"""Constraints from the command line and from Python, for every strategy."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INSTALLED, arrays

import mmselect
from mmselect.constraint import from_texts
from mmselect.strategies import registry
from mmselect.strategies.record import Picks, Strategy

N = 60
VIDEO = np.arange(N) // 3
SOUND = np.where(np.arange(N) % 3 == 0, "yes", "no")
SITE = np.array(["north", "south=a:b"])[np.arange(N) % 2]
SECONDS = 1.0 + np.arange(N) % 7
SLOW = ("vaal", "sraal", "learning-loss")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.h5"
    columns = {"video": VIDEO, "sound": SOUND, "site": SITE, "seconds": SECONDS}
    given = arrays(N)
    given["metadata"] |= columns
    given["labeled"] = np.arange(N) < 6
    mmselect.write_pool(path, **given)
    return path


def quick(name: str) -> dict[str, Any]:
    return {"gcnal": {"epochs": 5}, **{key: {"steps": 2} for key in SLOW}}.get(name, {})


def skip_without_torch(name: str) -> None:
    if name in SLOW:
        pytest.importorskip("torch")


@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_keeps_to_groups_quotas_and_balance(pool: Path, name: str) -> None:
    skip_without_torch(name)
    how = {"group": "video:1", "at_most": "site=north:30%", "at_least": "sound=yes:5"}
    found = mmselect.select(pool, name, 10, parameters=quick(name), **how)
    rows = found.indices
    assert len(rows) == len(set(rows.tolist())) == len(set(VIDEO[rows])) == 10
    assert (SITE[rows] == "north").sum() <= 3 and (SOUND[rows] == "yes").sum() >= 5
    assert not (rows < 6).any()
    told = ["--group video:1", "--at-most site=north:30%", "--at-least sound=yes:5"]
    assert found.provenance["constraints"] == told
    again = mmselect.select(pool, name, 10, parameters=quick(name), constraints=told)
    assert again.ids == found.ids
    balanced = mmselect.select(pool, name, 9, parameters=quick(name), balance=["sound", "site"])
    counts = np.bincount(SITE[balanced.indices] == "north", minlength=2)
    assert abs(counts[0] - counts[1]) <= 1
    assert abs(2 * (SOUND[balanced.indices] == "yes").sum() - 9) <= 1


@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_spends_no_more_than_the_budget(pool: Path, name: str) -> None:
    skip_without_torch(name)
    found = mmselect.select(pool, name, 40, parameters=quick(name), cost="seconds")
    assert found.costs is not None and (found.costs == SECONDS[found.indices]).all()
    spent, left = found.costs.sum(), np.setdiff1d(np.arange(6, N), found.indices)
    assert spent <= 40 and spent + SECONDS[left].min() > 40
    assert len(set(found.indices.tolist())) == len(found.indices)


@pytest.mark.parametrize("how", ["d2", "facility"])
def test_a_score_that_is_spread_keeps_to_constraints_too(pool: Path, how: str) -> None:
    found = mmselect.select(pool, "entropy", 12, spread=how, group="video:1", balance="sound")
    assert len(set(VIDEO[found.indices])) == 12
    assert (SOUND[found.indices] == "yes").sum() == 6


def test_costs_and_their_running_sum_go_along(pool: Path, cli) -> None:
    asked = ("select", pool, "-s", "entropy", "-b", "20.5", "--cost", "seconds", "-q")
    rows = list(csv.DictReader(io.StringIO(cli(*asked, "--format", "csv").out)))
    costs = [float(row["cost"]) for row in rows]
    assert [float(row["cost_sum"]) for row in rows] == np.cumsum(costs).round(9).tolist()
    assert sum(costs) <= 20.5
    whole = json.loads(cli(*asked, "--format", "json").out)
    assert [pick["cost"] for pick in whole["picks"]] == costs
    assert whole["provenance"]["budget"] == 20.5
    share = mmselect.select(pool, "random", "10%", cost="seconds")
    assert share.provenance["budget"] == pytest.approx(SECONDS.sum() / 10)


def test_the_predicted_class_counts_by_name_and_by_number(pool: Path) -> None:
    with mmselect.open_pool(pool) as opened:
        predicted = opened.columns["/multimodal_logits"][:].argmax(axis=1)
    for value in ("class 2", "2"):
        found = mmselect.select(pool, "entropy", 20, at_most=f"predicted={value}:1")
        assert (predicted[found.indices] == 2).sum() <= 1


REFUSED = {
    "video": (("--group", "video"), 2, "expected COLUMN:N"),
    "zero": (("--group", "video:0"), 2, "expected COLUMN:N"),
    "share": (("--at-most", "site=north:101%"), 2, "expected COLUMN=VALUE:N"),
    "column": (("--group", "vidoe:1"), 1, "did you mean 'video'?"),
    "value": (("--at-least", "sound=yess:1"), 1, "did you mean 'yes'?"),
    "class": (("--at-most", "predicted=class 9:1"), 1, "expected a class by name or from 0 to 4"),
    "number": (("--at-least", "video=x:1"), 1, "expected a number"),
    "too few": (("--at-least", "sound=yes:19"), 1, "19 needed, 18 candidates have it"),
    "grouped": (
        ("--at-least", "site=north:19", "--at-most", "sound=no:3"),
        1,
        "19 needed, 27 candidates have it, of which at-most sound=no:3 allows 12",
    ),
    "capacity": (("--group", "video:1"), 1, "expected at most 18: group video:1 allows 18 picks"),
    "values": (
        ("--at-most", "sound=yes:1", "--at-most", "sound=no:2"),
        1,
        "at-most sound=yes:1 and at-most sound=no:2 allows 3 picks",
    ),
    "sum": (
        ("--at-least", "sound=yes:11", "--at-least", "sound=no:10"),
        1,
        "11 + 10 = 21 needed, the budget is 20",
    ),
    "twice": (("--at-least", "sound=yes:1", "--at-least", "sound=yes:2"), 1, "found it twice"),
    "text costs": (("--cost", "sound"), 1, "expected a column of numbers, found text"),
    "reach": (("--cost", "seconds", "--at-least", "sound=yes:9"), 1, "needed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_before_any_work(pool: Path, cli, what: str) -> None:
    more, code, message = REFUSED[what]
    found = cli("select", pool, "-s", "entropy", "-b", 20, "-q", *more)
    assert (found.code, found.out) == (code, "")
    assert message in found.err and found.err.count("\n") == 1


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_costs_that_are_no_costs_are_refused_with_their_rows(tmp_path: Path, bad: float) -> None:
    path, given = tmp_path / "pool.h5", arrays(N)
    given["metadata"]["seconds"] = np.where(np.arange(N) == 31, bad, 2.0)
    mmselect.write_pool(path, **given)
    with pytest.raises(mmselect.MmselectError, match=r"/metadata/seconds: row 31: .*above 0"):
        mmselect.select(path, "random", 4, cost="seconds")


def test_clip_budget_takes_what_constraints_allow(pool: Path) -> None:
    found = mmselect.select(pool, "entropy", 20, group="video:1", clip_budget=True)
    assert len(found.ids) == 18
    assert any("clipped from 20 to the 18" in line for line in found.provenance["warnings"])


def test_what_turns_out_short_is_a_warning(pool: Path) -> None:
    """Only two of the eight candidates that cost 1 have sound, so 10 picks cannot be both."""
    quotas = ["sound=yes:8", "seconds=1:8"]
    found = mmselect.select(pool, "entropy", 10, at_least=quotas)
    short = [line for line in found.provenance["warnings"] if line.startswith("at-least")]
    has = [(SOUND[found.indices] == "yes").sum(), (SECONDS[found.indices] == 1).sum()]
    assert len(found.ids) == 10 and len(short) == sum(count < 8 for count in has) > 0


def test_the_plan_tells_constraints_and_what_they_come_to(pool: Path, cli) -> None:
    asked = ("select", pool, "-b", 10, "--group", "video:2", "--at-least", "sound=yes:50%")
    assert "--group video:2: 18 values among the candidates, so at most 36 picks" in " ".join(
        cli(*asked, "--dry-run").out.split()
    )
    plan = json.loads(cli(*asked, "--dry-run", "--format", "json").out)
    assert plan["constraints"]["--at-least sound=yes:50%"] == "at least 5; 18 candidates have it"


def test_a_batch_strategy_that_asks_nothing_is_refused(pool: Path, monkeypatch) -> None:
    first = Strategy("first", "batch", "", lambda batch, k, rng: Picks(np.arange(k)))
    lying = Strategy("lying", "batch", "", first.function, constrained=True)
    monkeypatch.setattr(registry, "BUILT_IN", {"first": first, "lying": lying})
    with pytest.raises(mmselect.MmselectError, match="first: knows no constraints, found --group"):
        mmselect.select(pool, "first", 3, group="video:1")
    with pytest.raises(mmselect.MmselectError, match="lying: picks that it did not tell"):
        mmselect.select(pool, "lying", 3, group="video:1")


def test_texts_that_are_no_constraints_are_refused() -> None:
    for texts in (["grp video:1"], ["--group"], ["cost a", "cost b"]):
        with pytest.raises(mmselect.MmselectError, match="constraints: expected"):
            from_texts("constraints", texts)


def test_replay_keeps_to_constraints_in_every_round(pool: Path) -> None:
    from mmselect.replay import replay

    found = replay(pool, ["random", "entropy"], rounds=2, budget=6, seeds=1, group="site:3")
    for run in found.runs:
        for picks in run.picks[1:]:
            assert np.bincount(SITE[picks] == "north").max() == 3
