"""The commands as a user meets them: what goes to stdout, to stderr, and the exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import WITHOUT_EXTRAS, Result, arrays

import mmselect
from mmselect.arrays import evenly_spread
from mmselect.cli.select import SCORE, SELECT
from mmselect.core.scores.alignment import modality_gap
from mmselect.output.emitting import SCORE_FORMS, SELECT_FORMS
from mmselect.strategies import registry


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_ids_are_the_picks_in_order(pool: Path, cli) -> None:
    picks = mmselect.select(pool, strategy="smem", budget=7)
    found = cli("select", pool, "-s", "smem", "--budget", 7)
    assert found == Result(0, "".join(f"{i}\n" for i in picks.ids), "")


def test_every_format_of_select_says_the_same(pool: Path, cli, tmp_path: Path) -> None:
    picks = mmselect.select(pool, strategy="smem", budget=5)
    common = ("select", pool, "-s", "smem", "-b", 5, "--format")
    assert cli(*common, "indices").out.split() == [str(i) for i in picks.indices]
    table = rows(cli(*common, "csv").out)
    assert list(table[0]) == ["rank", "index", "id", "score"]
    assert [r["id"] for r in table] == picks.ids
    assert [float(r["score"]) for r in table] == pytest.approx(picks.scores, rel=1e-5)
    lines = [json.loads(line) for line in cli(*common, "jsonl").out.splitlines()]
    whole = json.loads(cli(*common, "json").out)
    assert lines == whole["picks"]
    assert whole["provenance"]["budget"] == 5
    cli(*common, "npy", "-o", tmp_path / "picks.npy")
    assert np.load(tmp_path / "picks.npy").tolist() == picks.indices.tolist()
    tasks = json.loads(cli(*common, "label-studio").out)
    assert [t["data"]["id"] for t in tasks] == picks.ids
    assert tasks[0]["data"]["caption"] == f"a caption, no. {picks.indices[0]}"


def test_every_format_of_score_says_the_same(pool: Path, cli, tmp_path: Path) -> None:
    table = mmselect.score(pool, strategy="smem")
    found = rows(cli("score", pool, "-s", "smem").out)
    assert list(found[0]) == ["id", "score", *table.components]
    assert [r["id"] for r in found] == table.ids
    assert [float(r["jsd"]) for r in found] == pytest.approx(table.components["jsd"], rel=1e-5)
    lines = cli("score", pool, "-s", "smem", "--format", "jsonl").out.splitlines()
    assert json.loads(lines[3])["score"] == pytest.approx(table.score[3], rel=1e-5)
    cli("score", pool, "-s", "smem", "--format", "npy", "-o", tmp_path / "s.npy")
    records = np.load(tmp_path / "s.npy")
    assert (records["score"] == table.score).all() and records["id"].tolist() == table.ids
    cli("score", pool, "-s", "smem", "--format", "h5", "-o", tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as handle:
        assert (handle["score"][:] == table.score).all()
        assert handle["id"].asstr()[:].tolist() == table.ids
        assert json.loads(handle.attrs["provenance"])["strategy"] == "smem"


def test_help_names_every_format(cli) -> None:
    assert (tuple(SCORE_FORMS), tuple(SELECT_FORMS)) == (SCORE, SELECT)
    for command, names in {"select": SELECT, "score": SCORE}.items():
        page = " ".join(cli(command, "--help").out.split())
        assert f"{', '.join(names)}. Without it" in page


def test_scores_have_the_columns_of_the_contract(pool: Path) -> None:
    smem = ["entropy", "entropy.image", "entropy.text", "jsd"]
    smem += ["information.image", "information.text"]
    assert list(mmselect.score(pool, strategy="smem").components) == smem
    for name in ("entropy", "margin", "least-confidence", "bald", "column:loss"):
        assert mmselect.score(pool, strategy=name).components == {}


def test_information_is_the_other_head_minus_the_fused(pool: Path) -> None:
    c = mmselect.score(pool, strategy="smem").components
    np.testing.assert_allclose(c["information.image"], c["entropy.text"] - c["entropy"])
    np.testing.assert_allclose(c["information.text"], c["entropy.image"] - c["entropy"])


def test_smem_is_its_formula(pool: Path) -> None:
    table = mmselect.score(
        pool, strategy="smem", parameters={"alpha.text": 0.7, "beta": 0.5, "gamma": 2}
    )
    c = table.components
    expected = 0.3 * c["entropy.image"] + 0.7 * c["entropy.text"] + 0.5 * c["jsd"]
    np.testing.assert_allclose(table.score, expected + 2 * c["entropy"])
    assert table.provenance["parameters"]["alpha.image"] == pytest.approx(0.3)


def test_presets_of_the_ablation(pool: Path) -> None:
    def scored(**parameters: object) -> np.ndarray:
        return mmselect.score(pool, strategy="smem", parameters=parameters).score

    c = mmselect.score(pool, strategy="smem").components
    mean = (c["entropy.image"] + c["entropy.text"]) / 2
    np.testing.assert_allclose(scored(preset="entropies"), mean)
    np.testing.assert_allclose(scored(preset="jsd"), mean + c["jsd"])
    np.testing.assert_allclose(scored(preset="full"), mean + c["jsd"] + c["entropy"])
    np.testing.assert_allclose(scored(preset="mutual-information"), mean - c["entropy"])
    np.testing.assert_allclose(scored(preset="jsd", beta=3), mean + 3 * c["jsd"])


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_smem_takes_any_number_of_heads(tmp_path: Path, modalities: int, cli) -> None:
    rng = np.random.default_rng(0)
    heads = {f"m{j}": rng.standard_normal((30, 4)) for j in range(modalities)}
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, unimodal_logits=heads, multimodal_logits=rng.standard_normal((30, 4)))
    header = cli("score", path, "-s", "smem").out.splitlines()[0].split(",")
    entropies = [f"entropy.m{j}" for j in range(modalities)]
    informations = [f"information.m{j}" for j in range(modalities)] if modalities == 2 else []
    assert header == ["id", "score", "entropy", *entropies, "jsd", *informations]


def test_without_a_fused_head_smem_runs_with_gamma_0(tmp_path: Path, cli) -> None:
    path = tmp_path / "pool.h5"
    x = np.random.default_rng(0).standard_normal((30, 4))
    mmselect.write_pool(path, unimodal_logits={"image": x, "text": -x})
    assert cli("score", path, "-s", "smem").code == 1
    found = cli("score", path, "-s", "smem", "-p", "gamma=0")
    assert found.out.startswith("id,score,entropy.image,entropy.text,jsd\n")


def test_labeled_excluded_and_among(pool: Path, cli, tmp_path: Path) -> None:
    labeled = {i for i, flag in zip(arrays()["ids"], arrays()["labeled"], strict=True) if flag}
    ids = set(cli("select", pool, "-b", 50, "-q").out.split())
    assert len(ids) == 50 and not ids & labeled
    some = tmp_path / "ids.txt"
    some.write_text("s001\r\ns002\n\ns002\n")
    excluded = cli("select", pool, "-b", 48, "-q", "--exclude", some).out.split()
    assert len(excluded) == 48 and not {"s001", "s002"} & set(excluded)
    among = cli("select", pool, "-b", 2, "-q", "--among", some).out.split()
    assert sorted(among) == ["s001", "s002"]
    added = cli("select", pool, "-b", 48, "-q", "--labeled", some).out.split()
    assert len(added) == 48 and not ({"s001", "s002"} | labeled) & set(added)
    alone = cli("select", pool, "-b", 58, "-q", "--ignore-mask", "--labeled", some).out.split()
    assert len(alone) == 58 and labeled < set(alone)


def test_scores_cover_the_candidates_in_row_order(pool: Path) -> None:
    table = mmselect.score(pool, strategy="entropy", exclude=["s001"])
    mask = arrays()["labeled"].copy()
    mask[1] = True
    assert table.indices.tolist() == np.flatnonzero(~mask).tolist()


def test_no_candidate_gives_a_header_only(pool: Path, cli, tmp_path: Path) -> None:
    every = tmp_path / "ids.txt"
    every.write_text("\n".join(arrays()["ids"]))
    found = cli("score", pool, "-s", "smem", "--exclude", every)
    assert found.code == 0 and found.out.count("\n") == 1 and found.out.startswith("id,score,")


@pytest.mark.parametrize(
    ("budget", "count"), [("7", 7), ("10%", 6), ("0.01%", 1), ("2.5%", 1), ("1_0", 10)]
)
def test_budgets(pool: Path, cli, budget: str, count: int) -> None:
    assert len(cli("select", pool, "-b", budget, "-q").out.split()) == count


def test_a_smaller_budget_is_a_prefix(pool: Path) -> None:
    for name in ("random", "smem", "entropy"):
        large = mmselect.select(pool, strategy=name, budget=30, seed=3)
        assert mmselect.select(pool, strategy=name, budget=11, seed=3).ids == large.ids[:11]


def test_random_follows_the_seed_and_is_uniform(pool: Path) -> None:
    with mmselect.open_pool(pool) as opened:
        picks = [mmselect.select(opened, "random", 10, seed=seed).ids for seed in range(200)]
        assert mmselect.select(opened, "random", 10, seed=7).ids == picks[7]
    counts = np.unique(picks, return_counts=True)[1]
    # 50 candidates, 40 each; chi-square with 49 degrees of freedom is above 90 in 3 of 10,000
    assert len(counts) == 50 and ((counts - 40) ** 2 / 40).sum() < 90


def test_ties_go_to_the_lower_row(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, multimodal_logits=np.zeros((40, 3)))
    assert mmselect.select(path, strategy="margin", budget=5).indices.tolist() == [0, 1, 2, 3, 4]


def test_columns_rank_in_either_order(pool: Path, cli) -> None:
    loss = arrays()["metadata"]["loss"].copy()
    loss[arrays()["labeled"]] = -1
    ids = cli("select", pool, "-s", "column:loss", "-b", 3).out.split()
    assert ids == [f"s{i:03d}" for i in np.argsort(-loss)[:3]]
    loss[arrays()["labeled"]] = 2
    ids = cli("select", pool, "-s", "column:loss", "-b", 3, "-p", "order=ascending").out.split()
    assert ids == [f"s{i:03d}" for i in np.argsort(loss)[:3]]


def test_auto_says_what_and_why(pool: Path, cli, tmp_path: Path) -> None:
    err = cli("select", pool, "-b", 1).err
    assert err.startswith("note: strategy auto: facility (the first choice)\n")
    bare = tmp_path / "bare.h5"
    mmselect.write_pool(bare, multimodal_logits=np.random.default_rng(0).standard_normal((9, 3)))
    assert "margin (facility lacks /features)" in cli("select", bare, "-b", 1).err
    assert cli("select", bare, "-b", 1, "-q").err == ""


def test_provenance_repeats_and_follows_the_data(pool: Path) -> None:
    first = mmselect.select(pool, strategy="smem", budget=3).provenance
    assert first == mmselect.select(pool, strategy="smem", budget=3).provenance
    with h5py.File(pool, "r+") as handle:
        handle["multimodal_logits"][0, 0] += 1
    second = mmselect.select(pool, strategy="smem", budget=3).provenance
    assert first["pool"]["fingerprint"] != second["pool"]["fingerprint"]


def test_a_label_is_never_read_of_a_row_that_is_not_labeled(pool: Path) -> None:

    def picked() -> dict[str, list[str]]:
        names = WITHOUT_EXTRAS
        return {name: mmselect.select(pool, strategy=name, budget=9).ids for name in names}

    before = picked()
    with h5py.File(pool, "r+") as handle:
        handle["label"][:] = np.where(handle["labeled"][:], handle["label"][:], 0)
    assert before == {
        name: mmselect.select(pool, strategy=name, budget=9).ids for name in WITHOUT_EXTRAS
    }


@pytest.mark.parametrize("name", WITHOUT_EXTRAS)
def test_every_strategy_runs_on_a_full_pool(pool: Path, name: str, cli) -> None:
    found = cli("select", pool, "-s", name, "-b", 9, "-q")
    assert (found.code, found.err) == (0, "")
    assert len(set(found.out.split())) == 9


def test_check_lists_everything(pool: Path, cli) -> None:
    assert cli("check", pool) == Result(0, "", f"ok: {pool}: nothing wrong\n")
    with h5py.File(pool, "r+") as handle:
        handle["multimodal_logit"] = np.zeros(60)
        handle["features/image"][7, 1] = np.nan
        handle["multimodal_logits"][9] = -np.inf
        handle["id"][3] = "s000"
        handle["label"][5] = 99
        handle["coalition_logits/image+sound"] = np.zeros((60, 5), "f4")
    found = cli("check", pool)
    assert found.code == 1
    lines = found.out.splitlines()
    assert len(lines) == 6
    for part in (
        "/multimodal_logit: not in the format",
        "/features/image: row 7: expected finite numbers, found nan",
        "/multimodal_logits: row 9: expected a finite logit, found -inf in every class",
        "/id: row 3: expected unique ids, found 's000' again",
        "/label: row 5: expected -1 (unknown) or a class from 0 to 4",
        "/coalition_logits: expected modalities of /features (image, text), found sound",
    ):
        assert any(part in line for line in lines), part


def test_info_and_strategies_as_text_and_json(pool: Path, cli) -> None:
    found = json.loads(cli("info", pool, "--format", "json").out)
    assert (found["samples"], found["labeled"], found["classes"]) == (60, 10, 5)
    assert found["modalities"]["text"] == {"features": 4, "head": True, "classifier": True}
    assert "samples         60 (10 labeled, 50 candidates)" in cli("info", pool).out
    names = [row["name"] for row in json.loads(cli("strategies", "--format", "json").out)]
    assert names == list(registry.BUILT_IN)
    text = cli("strategies", pool).out
    assert all(name in text for name in names)


def test_dry_run_says_what_would_run(pool: Path, cli) -> None:
    found = cli("select", pool, "-b", "10%", "-s", "smem", "--dry-run")
    assert found.code == 0
    for part in ("smem", "candidates   50", "budget       6", "to read      3.6 kB", "peak memory"):
        assert part in found.out
    spoken = json.loads(cli("select", pool, "-b", 6, "--dry-run", "--format", "json", "-q").out)
    assert spoken["budget"] == 6 and spoken["bytes_to_read"] > 0


def test_a_notice_never_stands_in_the_result(pool: Path, cli) -> None:
    with h5py.File(pool, "r+") as handle:
        handle["odd"] = 1
    loud, quiet = cli("score", pool), cli("score", pool, "-q")
    assert loud.out == quiet.out
    assert "/odd: not in the format, ignored" in loud.err and quiet.err == ""


def test_python_takes_an_open_pool_and_leaves_it_open(pool: Path) -> None:
    with mmselect.open_pool(pool) as opened:
        first = mmselect.select(opened, strategy="entropy", budget=4)
        assert mmselect.select(opened, strategy="entropy", budget=4).ids == first.ids


def test_version(cli) -> None:
    assert cli("--version").out == f"mmselect {mmselect.__version__}\n"


def test_info_of_a_large_pool_says_that_it_sampled(
    tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmselect.describe.numbers.SAMPLED", 64)
    given = arrays(500)
    looked = evenly_spread(500, 4, 16)
    unlabeled = np.flatnonzero(~given["labeled"])
    unlabeled = unlabeled[evenly_spread(len(unlabeled), 4, 16)]
    bad = np.setdiff1d(np.arange(500), [*looked, *unlabeled])[:3]  # nobody looks unless asked to
    given["features"]["image"][bad] = np.nan
    given["features"]["text"][looked[:5]] = 0
    mmselect.write_pool(tmp_path / "pool.h5", **given)
    some = {name: x[looked] for name, x in given["features"].items()}
    gap = modality_gap(some).gap["image", "text"]
    found = cli("info", tmp_path / "pool.h5")
    assert "numbers below  sampled: 64 of 500 rows, evenly spread; --full reads all" in found.out
    assert f"{gap:.6f}" in found.out
    assert "text: 5 rows are all zero" in found.err
    assert "looked at)" in found.err
    told = json.loads(cli("info", tmp_path / "pool.h5", "--format", "json").out)
    assert told["sampled"] == {"rows": 64, "of": 500}
    assert (told["samples"], told["labeled"]) == (500, int(given["labeled"].sum()))
    labels = given["labels"][given["labeled"]]
    shares = [row["labeled"] for row in told["class_shares"]]
    assert shares == pytest.approx(
        (np.bincount(labels, minlength=5) / len(labels)).tolist(), rel=1e-5
    )
    full = cli("info", tmp_path / "pool.h5", "--full")
    assert full.code == 1 and f"rows {bad[0]}, " in full.err
    with pytest.raises(ValueError, match="expected finite"):
        modality_gap(given["features"], rows=bad)
