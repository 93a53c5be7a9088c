"""Several replays as one matrix, against loops over settings, rounds and pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from scipy import stats

from mmselect.errors import MmselectError
from mmselect.replay.combining import combine

pytestmark = pytest.mark.usefixtures("few_penalties")

HEADS = {
    "all modalities": "accuracy",
    "strongest alone": "accuracy.b",
    "weakest alone": "accuracy.a",
}


def stored(folder: Path, seed: int, names: str, key: str = "k", rounds: int = 4) -> dict:
    """Finished runs of three seeds as a replay would leave them; also as arrays by head."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    curves: dict = {}
    for i, name in enumerate(names.split(",")):
        curves[name] = {
            "accuracy": 0.5 + 0.02 * i + 0.02 * rng.standard_normal((3, rounds)),
            "accuracy.a": 0.2 + 0.02 * rng.standard_normal((3, rounds)),
            "accuracy.b": 0.3 + 0.02 * i + 0.02 * rng.standard_normal((3, rounds)),
        }
        for s in range(3):
            rows = [
                {"round": r, "labeled": 10 + 5 * r, "contribution.a": 0.5, "contribution.b": 0.5}
                | {head: float(values[s, r]) for head, values in curves[name].items()}
                for r in range(rounds)
            ]
            run = {"key": key, "strategy": name, "seed": s, "rounds": rows}
            text = json.dumps({**run, "picks": [], "warnings": []})
            (folder / f"{name}-{s}-{key}.json").write_text(text)
    return curves


def test_the_matrix_over_settings_by_loops(tmp_path: Path) -> None:
    settings = [
        stored(tmp_path / "one", 0, "x,random,y"),
        stored(tmp_path / "two", 1, "y,x,random,z", key="k1"),
        stored(tmp_path / "two", 2, "random,x,y", key="k2", rounds=3),
    ]
    made = combine([tmp_path / "one", tmp_path / "two"])
    names = made["strategies"]
    assert sorted(names) == ["random", "x", "y"] and made["left_out"] == ["z"]
    for kind, head in HEADS.items():
        matrix = np.zeros((3, 3))
        for curves in settings:
            for i, a in enumerate(names):
                for j, b in enumerate(names):
                    d = (curves[a][head] - curves[b][head])[:, 1:]
                    for of_round in d.T if i != j else ():
                        better = stats.ttest_1samp(of_round, 0).pvalue < 0.1
                        matrix[i, j] += (better and of_round.mean() > 0) / d.shape[1]
        assert matrix.sum() > 0 and np.allclose(made["wins"][kind], matrix)
        assert made["beaten"][kind] == pytest.approx(matrix.sum(axis=0) / 2)
    x, base = settings[0]["x"]["accuracy"], settings[0]["random"]["accuracy"]
    d = np.trapezoid(x - base, dx=5, axis=1) / 15
    plain = stats.ttest_1samp(d, 0).confidence_interval(0.975)
    assert made["differences"]["x"][0] == pytest.approx((d.mean(), *plain))


def test_what_a_person_sees(cli: Callable[..., Result], tmp_path: Path) -> None:
    stored(tmp_path / "one", 0, "x,random")
    stored(tmp_path / "two", 1, "x,random,z")
    places = [tmp_path / "one", tmp_path / "two"]
    found = cli("replay", "--combine", *places, "--report", tmp_path / "report")
    assert found.code == 0, found.err
    for line in ("wins, all modalities  random  x", "mean of the column", "left out: z"):
        assert line in found.out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "summed over 2 settings" in page and 'data-won="' in page
    rows = cli("replay", "--combine", *places, "--format", "csv").out.splitlines()
    assert rows[0] == "heads,strategy,over,wins" and len(rows) == 1 + 3 * 2
    made = json.loads(cli("replay", "--combine", *places, "--format", "json").out)
    assert made["settings"][0]["name"] == "one" and made["settings"][1]["seeds"] == 3


def test_a_report_is_read_as_its_runs_are(tmp_path: Path) -> None:
    stored(tmp_path / "one", 0, "x,random")
    runs = [json.loads(p.read_text()) for p in sorted((tmp_path / "one").glob("*.json"))][::-1]
    named = [{"strategy": run["strategy"], "seed": run["seed"]} for run in runs]
    rows = [{**n, **row} for n, run in zip(named, runs, strict=True) for row in run["rounds"]]
    (tmp_path / "report").mkdir()
    content = {"settings": {"pool": {"paths": ["a/b.h5"]}, "budget": "2%"}, "rounds": rows}
    (tmp_path / "report" / "replay.json").write_text(json.dumps(content))
    made = combine([tmp_path / "report"])
    assert made["settings"][0]["name"] == "b, 2%"
    assert made["differences"]["x"] == combine([tmp_path / "one"])["differences"]["x"]
    with pytest.raises(MmselectError, match="each replay once, found one again"):
        combine([tmp_path / "report", tmp_path / "one"])


def test_what_cannot_be_combined(cli: Callable[..., Result], tmp_path: Path) -> None:
    stored(tmp_path / "one", 0, "x,random")
    stored(tmp_path / "two", 1, "y,z")
    (tmp_path / "none").mkdir()
    (tmp_path / "odd.json").write_text('{"rounds": 3}')
    (tmp_path / "first.json").write_text('{"settings": {"rounds": 0}}')
    for places, words in (
        (["one", "two"], "expected 2 strategies in all replays, found 0"),
        (["none"], "none: expected finished runs or a replay"),
        (["odd.json"], "odd.json: expected finished runs or a replay"),
        (["first.json"], "first.json: expected rounds, found first batches alone"),
        (["absent.json"], "absent.json: cannot be read"),
    ):
        with pytest.raises(MmselectError, match=words):
            combine([tmp_path / place for place in places])
    (tmp_path / "one" / "x-0-k.json").unlink()
    (tmp_path / "one" / "x-1-k.json").unlink()
    with pytest.raises(MmselectError, match="expected 2 seeds of all strategies"):
        combine([tmp_path / "one"])
    found = cli("replay", "--combine", tmp_path / "two", "--rounds", "3")
    assert found.code == 2 and "combine: expected finished replays and nothing to play" in found.err
