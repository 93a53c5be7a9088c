"""Selections that are made again, and selections side by side."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import INSTALLED, arrays

import mmselect


@pytest.fixture
def made(pool: Path, cli, monkeypatch: pytest.MonkeyPatch):
    """Select into picks.json, in the pool's folder."""
    monkeypatch.chdir(pool.parent)

    def make(*more: object) -> dict:
        found = cli("select", "pool.h5", "-q", "-o", "picks.json", *more)
        assert found.code == 0, found.err
        return json.loads(Path("picks.json").read_text())

    return make


@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_is_verified(made, cli, name: str) -> None:
    made("-s", name, "-b", "15%", "--seed", 3)
    found = cli("verify", "picks.json", "-q")
    assert (found.code, found.err) == (0, "") and found.out == "picks  the same 9\n"


def test_all_that_was_asked_is_asked_again(made, cli) -> None:
    Path("done.txt").write_text("s001\ns002\n")
    Path("not.csv").write_text("id\ns003\nnobody\n")
    lists = ("--labeled", "done.txt", "--exclude", "not.csv", "--ignore-unknown", "--ignore-mask")
    third = ("-p", f"alpha.text={1 / 3!r}", "-p", "gamma=0.1234567890123")
    asked = (*lists, "--where", "loss>=0.1", "-s", "smem", *third, "--spread", "d2", "--seed", 5)
    document = made("-b", 999, "--clip-budget", *asked)
    assert document["provenance"]["given"]["parameters"]["alpha.text"] == repr(1 / 3)
    assert document["provenance"]["lists"]["exclude"]["rows"] == 1
    found = cli("verify", "picks.json", "--format", "json")
    assert found.code == 0 and json.loads(found.out)["changed"] == []
    auto = made("-b", 4)
    assert cli("verify", "picks.json").code == 0 and auto["provenance"]["strategy"] == "facility"


def test_parts_of_a_selection_are_verified(made, cli) -> None:
    cli("select", "pool.h5", "-b", 8, "-s", "bmmal", "--split", 3, "-o", "{}.json")
    assert [cli("verify", f"{part}.json").code for part in (1, 2, 3)] == [0, 0, 0]


def test_what_differs_is_said(made, cli) -> None:
    Path("done.txt").write_text("s001\ns002\n")
    document = made("-s", "entropy", "-b", 6, "--exclude", "done.txt")
    ids = [pick["id"] for pick in document["picks"]]
    Path("done.txt").write_text(f"s001\ns002\n{ids[2]}\n")
    found = cli("verify", "picks.json")
    assert found.code == 1
    assert "the first that differs has rank 3; 5 of 6 are in both" in found.out
    assert "exclude: the list, 3 rows, before 2 rows" in found.out
    assert "candidates: 47, before 48" in found.out
    Path("before.txt").write_text("s001\ns002\n")
    assert cli("verify", "picks.json", "--exclude", "before.txt").code == 0
    with h5py.File("pool.h5", "r+") as handle:
        handle["multimodal_logits"][...] = handle["multimodal_logits"][...][::-1]
    found = cli("verify", "picks.json", "pool.h5", "--exclude", "before.txt")
    assert found.code == 1 and "pool: its content, by the fingerprint" in found.out


def test_a_change_that_changes_no_pick_is_told_too(made, cli) -> None:
    document = made("-s", "random", "-b", 6)
    document["provenance"]["mmselect"] = "0.1.9"
    Path("picks.json").write_text(json.dumps(document))
    found = cli("verify", "picks.json")
    assert found.code == 0 and "mmselect: 0.2.0, before 0.1.9" in found.out


def test_lists_that_cannot_be_had_again_are_asked_for(pool: Path, cli, monkeypatch) -> None:
    monkeypatch.chdir(pool.parent)
    picks = mmselect.select(pool, "entropy", 3, exclude=["s001", "s002"])
    document = {"provenance": picks.provenance, "picks": [{"id": i} for i in picks.ids]}
    Path("picks.json").write_text(json.dumps(document))
    found = cli("verify", "picks.json")
    assert (found.code, found.out) == (1, "")
    expected = "exclude: 2 ids came from Python; give them again with --exclude FILE"
    assert found.err == f"error: picks.json: {expected}\n"
    Path("ids.txt").write_text("s002\ns001\n")
    assert cli("verify", "picks.json", "--exclude", "ids.txt").code == 0


@pytest.mark.parametrize(
    "text", ["s001\n", "[]", "{}", '{"picks": [], "provenance": {}}', '{"picks": 1}']
)
def test_what_is_no_selection_is_one_line(pool: Path, cli, text: str) -> None:
    target = pool.parent / "x.json"
    target.write_text(text)
    found = cli("verify", target)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert "expected what mmselect select --format json writes" in found.err


@pytest.mark.parametrize(
    "change", [{"given": {"budget": 2, "odd": 1}}, {"pool": 3}, {"lists": {"labeled": 3}}]
)
def test_a_provenance_that_no_select_wrote_is_one_line(made, cli, change: dict) -> None:
    document = made("-s", "random", "-b", 2)
    document["provenance"].update(change)
    Path("picks.json").write_text(json.dumps(document))
    found = cli("verify", "picks.json")
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)


def test_a_difference_in_numbers(made, cli) -> None:
    made("-s", "entropy", "-b", 10)
    made_again = cli("select", "pool.h5", "-s", "margin", "-b", 20, "-q", "--format", "jsonl")
    Path("b.jsonl").write_text(made_again.out)
    found = json.loads(cli("diff", "picks.json", "b.jsonl", "pool.h5", "--format", "json").out)
    a = [pick["id"] for pick in json.loads(Path("picks.json").read_text())["picks"]]
    b = [json.loads(line)["id"] for line in made_again.out.splitlines()]
    shared = len({*a} & {*b})
    assert (found["picks"], found["shared"]) == ([10, 20], shared)
    assert found["jaccard"] == pytest.approx(shared / (30 - shared))
    assert [each["picks"] for each in found["first"]] == [[1, 2], [5, 10], [10, 20]]
    assert found["first"][1]["shared"] == len({*a[:5]} & {*b[:10]})
    given = arrays()
    rows = [[given["ids"].index(name) for name in each] for each in (a, b)]
    means = {each["of"]: (each["a"], each["b"]) for each in found["means"]}
    assert means["loss"] == pytest.approx(
        [given["metadata"]["loss"][each].mean() for each in rows], rel=1e-5
    )
    assert means["contribution of image"][0] + means["contribution of text"][0] == pytest.approx(
        1, rel=1e-5
    )
    classes = given["multimodal_logits"].argmax(1)
    for each in found["shares"]:
        if each["of"] == "predicted class":
            number = int(each["value"].split()[1])
            assert each["a"] == pytest.approx(np.mean(classes[rows[0]] == number), rel=1e-5)
    assert found["made"] == {}


def test_a_difference_for_people(made, cli) -> None:
    made("-s", "entropy", "-b", 10)
    Path("a.json").write_text(Path("picks.json").read_text())
    made("-s", "smem", "-b", 10, "-p", "beta=0.5")
    found = cli("diff", "a.json", "picks.json", "pool.h5")
    assert found.code == 0 and max(map(len, found.out.splitlines())) <= 80
    assert "strategy" in found.out and "Jaccard" in found.out and "predicted class" in found.out
    alone = cli("diff", "a.json", "picks.json").out
    assert "predicted class" not in alone and "Jaccard" in alone
    none = cli("diff", "a.json", "picks.json", "pool.h5", "--columns", "los")
    assert none.code == 1 and "did you mean 'loss'?" in none.err


def test_a_difference_of_lists_that_do_not_fit_the_pool(pool: Path, cli) -> None:
    target = pool.parent / "a.txt"
    target.write_text("s001\nnobody\n")
    found = cli("diff", target, target, pool)
    assert found.code == 1 and "expected ids of the pool, found 1 unknown" in found.err
