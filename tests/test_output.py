"""Formats: by the ending of a name, with columns, dealt to several files, for labeling tools."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.errors import NeedsError
from mmselect.lists import read_list
from mmselect.output.emitting import SELECT_FORMS

CAPTIONS, LOSS = arrays()["metadata"]["caption"], arrays()["metadata"]["loss"]
PICK = ("-s", "smem", "-b", 7, "-q")


@pytest.fixture
def picks(pool: Path) -> mmselect.Selection:
    return mmselect.select(pool, "smem", 7)


@pytest.mark.parametrize("form", [name for name, form in SELECT_FORMS.items() if form.endings])
def test_the_ending_of_a_name_says_the_format(pool: Path, form: str, cli, tmp_path: Path) -> None:
    for ending in SELECT_FORMS[form].endings:
        said, unsaid = tmp_path / f"said{ending.upper()}", tmp_path / f"unsaid{ending}"
        assert cli("select", pool, *PICK, "--format", form, "-o", said).code == 0
        first = next(name for name, f in SELECT_FORMS.items() if ending in f.endings)
        assert cli("select", pool, *PICK, "-o", unsaid).code == 0
        assert (said.read_bytes() == unsaid.read_bytes()) is (first == form)


def test_scores_by_the_ending_too(pool: Path, cli, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = mmselect.score(pool, "smem")
    for ending in ("csv", "jsonl", "npy", "h5", "hdf5", "parquet"):
        assert cli("score", pool, "-s", "smem", "-o", tmp_path / f"s.{ending}").code == 0
    found = parquet.read_table(tmp_path / "s.parquet")
    assert found.column_names == ["index", "id", "score", *table.components]
    assert found["id"].to_pylist() == table.ids
    assert (found["jsd"].to_numpy() == table.components["jsd"]).all()
    assert json.loads(found.schema.metadata[b"provenance"])["strategy"] == "smem"
    with h5py.File(tmp_path / "s.hdf5") as handle:
        assert (handle["score"][:] == found["score"].to_numpy()).all()


REFUSED = {
    ("select", "-b", 2, "-o", "a.h5"): "format: expected a name that ends with .csv or .jsonl or",
    ("select", "-b", 2, "-o", "a.csv", "--format", "json"): (
        "format: expected a name that ends with .json for json, found 'a.csv'"
    ),
    ("select", "-b", 2, "-o", "a.csv", "--format", "ids"): (
        "format: expected a name that ends with no other format for ids, found 'a.csv'"
    ),
    ("select", "-b", 2, "-o", "a.xlsx"): "format: expected a name that ends with .csv or .jsonl or",
    ("score", "-o", "a.tsv"): "format: expected a name that ends with .csv or .jsonl or",
    ("score", "-o", "a.json"): "format: expected a name that ends with .csv or .jsonl or",
    ("replay", "-o", "a.npy"): "format: expected a name that ends with .csv or .json, found",
    ("select", "-b", 2, "--format", "jsnl"): "found 'jsnl'; did you mean 'jsonl'?",
    ("select", "-b", 2, "--columns", "loss"): (
        "columns: expected a format of csv, jsonl, json, label-studio, cvat, fiftyone, prodigy, "
        "argilla, found ids"
    ),
    ("select", "-b", 2, "--format", "csv", "--predict", "a:b"): (
        "predict: expected a format of label-studio, found csv"
    ),
    ("select", "-b", 2, "--format", "label-studio", "--predict", "a"): (
        "predict: expected FROM:TO, found 'a'"
    ),
    ("select", "-b", 2, "--format", "cvat", "--columns", "caption,loss"): (
        "columns: cvat takes one, found caption, loss"
    ),
    ("select", "-b", 2, "--split", 2): "split: expected {} once in -o",
    ("select", "-b", 2, "--split", 2, "-o", "{}{}"): "split: expected {} once in -o",
    ("select", "-b", 2, "--split", 0, "-o", "{}"): "split: expected a whole number of at least 1",
    ("select", "-b", 2, "--split", 3, "-o", "{}.csv"): (
        "split: expected at most 2 parts for 2 picks, found 3"
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_a_usage_error(
    pool: Path, case: tuple[object, ...], cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pool.parent)
    before = sorted(pool.parent.iterdir())
    found = cli(case[0], pool, *case[1:], "-q")
    assert (found.code, found.out) == (2, "")
    assert REFUSED[case] in found.err and found.err.count("\n") == 1
    assert sorted(pool.parent.iterdir()) == before


def test_an_unknown_column_is_refused_before_the_work(pool: Path, cli) -> None:
    found = cli("select", pool, *PICK, "--format", "csv", "--columns", "captoin")
    expected = "columns: expected a column of /metadata (caption, loss), found 'captoin'"
    assert found.code == 1 and f"{expected}; did you mean 'caption'?" in found.err


def test_columns_go_along(pool: Path, cli, tmp_path: Path, picks: mmselect.Selection) -> None:
    common = ("select", pool, *PICK, "--columns", "loss,caption", "--format")
    table = list(csv.DictReader(io.StringIO(cli(*common, "csv").out)))
    assert list(table[0]) == ["rank", "index", "id", "score", "loss", "caption"]
    assert [row["caption"] for row in table] == [CAPTIONS[i] for i in picks.indices]
    lines = [json.loads(line) for line in cli(*common, "jsonl").out.splitlines()]
    assert [line["loss"] for line in lines] == LOSS[picks.indices].tolist()
    assert json.loads(cli(*common, "json").out)["picks"] == lines
    target = tmp_path / "s.npy"
    cli("score", pool, "-s", "smem", "--columns", "caption", "-o", target)
    records = np.load(target)
    assert [CAPTIONS[i] for i in records["index"]] == records["caption"].tolist()


def test_npy_holds_many_columns_without_a_warning(tmp_path: Path, cli) -> None:
    path, target = tmp_path / "pool.h5", tmp_path / "scores.npy"
    heads = {name: np.eye(9, 3) for name in ("image", "long" * 20_000)}
    mmselect.write_pool(path, unimodal_logits=heads, multimodal_logits=np.eye(9, 3))
    found = cli("score", path, "-s", "smem", "-q", "-o", target)
    assert (found.code, found.err) == (0, "")
    assert len(np.load(target, max_header_size=10**6)) == 9


def test_a_column_whose_name_is_taken_is_renamed(tmp_path: Path, cli) -> None:
    path = tmp_path / "pool.h5"
    metadata = {"score": np.arange(9), "metadata_score": np.arange(9, 18)}
    mmselect.write_pool(path, multimodal_logits=np.eye(9, 3), metadata=metadata)
    asked = ("select", path, "-s", "random", "-b", 1, "--format", "jsonl")
    [row] = map(json.loads, cli(*asked, "--columns", "score,metadata_score").out.splitlines())
    assert row["metadata_metadata_score"] == row["index"] == row["metadata_score"] - 9


def test_picks_are_dealt_in_turn(pool: Path, cli, picks: mmselect.Selection) -> None:
    target = pool.parent / "round-{}.json"
    assert cli("select", pool, *PICK, "--split", 3, "-o", target).out == ""
    files = [pool.parent / f"round-{part}.json" for part in (1, 2, 3)]
    documents = [json.loads(file.read_text()) for file in files]
    dealt = [[pick["id"] for pick in document["picks"]] for document in documents]
    assert dealt == [picks.ids[part::3] for part in range(3)]
    assert [d["provenance"]["split"]["part"] for d in documents] == [1, 2, 3]
    assert not target.exists()


def test_of_several_files_all_are_written_or_none(
    pool: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pool.parent / "2.txt").write_text("before")
    (pool.parent / "3.txt").mkdir()
    before = {p.name for p in pool.parent.iterdir()}
    assert cli("select", pool, *PICK, "--split", 3, "-o", pool.parent / "{}.txt").code == 1
    assert {p.name for p in pool.parent.iterdir()} == before
    assert (pool.parent / "2.txt").read_text() == "before"


TOOLS = ["label-studio", "fiftyone", "prodigy", "argilla", "cvat"]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("bare", [False, True])
def test_what_a_tool_gets_is_a_list_of_the_picks(
    pool: Path, tool: str, bare: bool, cli, tmp_path: Path
) -> None:
    if bare:
        with h5py.File(pool, "r+") as handle:
            del handle["metadata"]
    target = tmp_path / f"picks{(*SELECT_FORMS[tool].endings, '.txt')[0]}"
    assert cli("select", pool, *PICK, "--format", tool, "-o", target).code == 0
    found = read_list(str(target)).ids(lambda name: name in arrays()["ids"])
    assert found == mmselect.select(pool, "smem", 7).ids


def test_each_tool_finds_what_it_looks_for(pool: Path, cli, picks: mmselect.Selection) -> None:
    def made(tool: str, *more: object) -> list:
        text = cli("select", pool, *PICK, "--format", tool, *more).out
        return [json.loads(line) for line in text.splitlines()]

    captions = [CAPTIONS[i] for i in picks.indices]
    assert [row["caption"] for row in made("prodigy")] == captions
    assert made("prodigy")[1]["meta"]["rank"] == 2
    first = made("argilla")[0]
    assert first["fields"] == {"caption": captions[0]} and first["id"] == picks.ids[0]
    assert set(first["metadata"]) == {"rank", "score", "loss"}
    assert set(made("argilla", "--columns", "loss")[0]["metadata"]) == {"rank", "score", "loss"}
    [whole] = made("fiftyone", "--columns", "caption")
    assert list(whole) == ["ids", "ranks", "scores", "caption"]
    assert whole["scores"] == pytest.approx(picks.scores, rel=1e-5) and whole["caption"] == captions
    listed = cli("select", pool, *PICK, "--format", "cvat", "--columns", "caption").out
    assert listed.splitlines() == captions


def test_a_tool_gets_no_number_where_a_strategy_gives_none(pool: Path, cli) -> None:
    asked = ("select", pool, "-s", "random", "-b", 1, "-q", "--format")
    assert set(json.loads(cli(*asked, "argilla").out)["metadata"]) == {"rank", "loss"}
    assert set(json.loads(cli(*asked, "prodigy").out)["meta"]) == {"id", "rank"}
    assert json.loads(cli(*asked, "fiftyone").out)["scores"] == [None]


@pytest.mark.parametrize("exported", [True, False])
def test_predictions_are_of_the_fused_head(pool: Path, exported: bool, cli) -> None:
    given = arrays()
    if exported:
        logits = given["multimodal_logits"].astype(float)
    else:
        with h5py.File(pool, "r+") as handle:
            del handle["multimodal_logits"]
        weights, features = given["classifier_weight"], given["features"]
        logits = sum(features[m] @ weights[m].T for m in features)
    asked = ("select", pool, "-s", "coreset", "-b", 7, "-q", "--format", "label-studio")
    tasks = json.loads(cli(*asked, "--predict", "label:picture").out)
    rows = [given["ids"].index(task["data"]["id"]) for task in tasks]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for row, task in zip(rows, tasks, strict=True):
        [prediction] = task["predictions"]
        [result] = prediction["result"]
        assert (result["from_name"], result["to_name"]) == ("label", "picture")
        assert result["value"] == {"choices": [f"class {logits[row].argmax()}"]}
        assert prediction["score"] == pytest.approx(p[row].max(), rel=1e-5)


def test_without_a_fused_head_nothing_is_predicted(tmp_path: Path, cli) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, features={"image": np.eye(9)})
    asked = ("select", path, "-s", "random", "-b", 1, "--format", "label-studio")
    found = cli(*asked, "--predict", "a:b")
    assert found.code == 1 and "predict: needs /multimodal_logits" in found.err


def test_frames(pool: Path, picks: mmselect.Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    frame = picks.to_frame()
    assert list(frame) == ["rank", "index", "id", "score"] and list(frame["id"]) == picks.ids
    table = mmselect.score(pool, "smem")
    scores = table.to_frame()
    assert list(scores) == ["id", "index", "score", *table.components]
    scores.loc[0, "score"] = -1
    assert table.score[0] != -1
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NeedsError, match="to_frame needs pandas; install it with: pip install"):
        picks.to_frame()


def test_parquet_without_pyarrow_says_so_before_the_work(
    pool: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = cli("score", pool, "-o", pool.parent / "a.parquet")
    assert found.code == 1 and not (pool.parent / "a.parquet").exists()
    assert found.err == (
        "error: format parquet needs pyarrow; install it with: pip install 'mmselect[parquet]'\n"
    )
