"""Lists of ids in every form that people have them, and what is said of ids that do not fit."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.errors import InputError, SelectionError
from mmselect.lists import ListFile, read_list

KNOWN = {"cat", "dog", "a,b", "7", "id of no one"}


def ids(text: str, name: str = "list.txt") -> list[str]:
    return ListFile(name, text).ids(KNOWN.__contains__)


READ = {
    "lines": "cat\ndog\n",
    "CRLF and blank lines": "cat\r\n\r\ndog\r\n\r\n",
    "no line break at the end": "cat\ndog",
    "one column": "id\ncat\ndog\n",
    "CSV": 'rank,index,id,score\n1,0,cat,0.5\n2,1,"dog",\n',
    "CSV of a spreadsheet": "id;name\r\ncat;x\r\ndog;y\r\n",
    "tabs": "name\tid\nx\tcat\ny\tdog\n",
    "JSON lines": '{"rank": 1, "id": "cat"}\n\n{"rank": 2, "id": "dog"}\r\n',
    "JSON": '{"provenance": {}, "picks": [{"id": "cat"}, {"id": "dog"}]}',
    "JSON of texts": '["cat",\n "dog"]',
    "Prodigy": '{"text": "x", "meta": {"id": "cat"}}\n{"text": "y", "meta": {"id": "dog"}}\n',
    "Argilla": '[{"id": "cat", "fields": {}}, {"id": "dog", "fields": {}}]',
    "FiftyOne": '{"samples": [{"mmselect_id": "cat"}, {"mmselect_id": "dog"}]}',
    "for FiftyOne": '{"ids": ["cat", "dog"], "ranks": [1, 2], "scores": [0.5, null]}',
    "COCO": '{"images": [{"id": 1, "file_name": "cat.jpg"}, {"id": 2, "file_name": "dog"}]}',
    "Datumaro": '{"categories": {}, "items": [{"id": "cat"}, {"id": "dog"}]}',
    "Label Studio": '[{"id": 1, "data": {"id": "cat"}}, {"id": 2, "data": {"id": "dog"}}]',
}


@pytest.mark.parametrize("form", READ)
def test_forms(form: str) -> None:
    assert ids(READ[form]) == ["cat", "dog"]


def test_the_pool_decides_whether_commas_are_of_ids() -> None:
    assert ids("a,b\ncat\n") == ids("a,b\ncat\n", "list.csv") == ["a,b", "cat"]
    assert ids('id\n"a,b"\n') == ["a,b"]
    assert ids("x,y\ncat\n") == ["x,y", "cat"]
    assert ids('[{"id": 7}]') == ["7"] and ids("7\n8") == ["7", "8"]
    assert ListFile("x", "id,x\ncat").ids({"id,x"}.__contains__) == ["id,x", "cat"]
    assert ids("") == ids("\n\r\n", "list.csv") == []


REFUSED = {
    ("name,label\ncat,1\n", "x.csv"): "x.csv: expected a column id, found the columns name,label",
    ("id,x\ncat\n", "x"): "x: line 2: expected 2 fields, found 1",
    ("id\na cat, black\n", "x"): "x: line 2: expected 1 fields, found 2",
    ("id,x\n,1\n", "x"): "x: line 2: expected an id, found none",
    ('id,x\n"cat,1\n', "x"): "x: line 2: expected a table",
    ('[{"id": "cat"}, {"id": "do', "x"): "x: expected JSON",
    ('{"id": "cat"}\n{"id": "do', "x"): 'x: line 2: expected JSON, found {"id": "do',
    ("cat-\n", "x.json"): "x.json: line 1: expected JSON, found cat-",
    ("3", "x.json"): "x.json: expected a list in JSON, found 3",
    ('{"name": "cat"}', "x"): "x: entry 1: expected an id in id, found null",
    ('[{"id": 1, "data": {"text": "x"}}]', "x"): "x: entry 1: expected an id in data.id",
    ('[{"id": true}]', "x"): "expected an id in id, found true",
    ('[{"id": 1.0}]', "x"): "expected an id in id, found 1.0",
    ('[{"id": ""}]', "x"): 'expected an id in id, found ""',
    ("[" * 100_000, "x"): "x: expected JSON",
    ('[{"id": 7, "annotation_id": 3}]', "x"): "export as JSON, which keeps data.id",
    ("annotation_id,id\n3,7\n", "x"): "export as JSON, which keeps data.id",
}


@pytest.mark.parametrize("given", REFUSED, ids=lambda given: repr(given[0][:40]))
def test_what_is_no_list(given: tuple[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        ids(*given)
    assert REFUSED[given] in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mark = tmp_path / "list", "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes(f"{mark}é\r\ncat\r\n".encode(encoding))
    assert read_list(str(path)).ids(KNOWN.__contains__) == ["é", "cat"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert read_list("-").ids(KNOWN.__contains__) == ["é", "cat"]


@pytest.mark.parametrize("raw", [b"caf\xe9\n", "cat\n".encode("utf-16-le"), b"\x93NUMPY\x01\0"])
def test_what_is_no_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "list"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="expected text in UTF-8, or in UTF-16 with a byte order"):
        read_list(str(path))


@pytest.mark.parametrize(
    "command",
    [
        *(("select", "-b", 7, "--format", f) for f in ("ids", "csv", "jsonl", "json")),
        ("select", "-b", 7, "--format", "label-studio"),
        ("score", "--among", "some", "--format", "csv"),
        ("score", "--among", "some", "--format", "jsonl"),
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_what_the_commands_write_is_a_list(
    pool: Path, cli, tmp_path: Path, command: tuple[object, ...]
) -> None:
    first = mmselect.select(pool, "entropy", 7)
    (tmp_path / "some").write_text("\n".join(first.ids))
    command = tuple(tmp_path / "some" if part == "some" else part for part in command)
    written = tmp_path / "written"
    written.write_text(cli(command[0], pool, "-s", "entropy", *command[1:]).out)
    found = cli("select", pool, "-s", "entropy", "-b", 43, "--exclude", written)
    assert found.code == 0 and not set(found.out.split()) & set(first.ids)
    assert found.err == "note: exclude: 7 rows taken away\n"


# -- ids that the pool does not have --------------------------------------------------------------

CAUSES = {
    "s001\t\n": r"'s001\t' differs from the pool's 's001' only by blanks around it",
    "cafe\u0301\n": "'cafe\u0301' differs from the pool's 'caf\u00e9' only by its Unicode form",
    " cafe\u0301\n": "only by blanks around it and its Unicode form (NFC or NFD)",
    "padded\n": "'padded' differs from the pool's ' padded' only by blanks around it",
    "samples\ns001\n": "the first line 'samples' looks like a header; a column of ids is called id",
    "Rank,ID\n1,s001\n": "the first line 'Rank,ID' looks like a header",
}


@pytest.mark.parametrize("text", CAUSES, ids=ascii)
def test_causes(tmp_path: Path, cli, text: str) -> None:
    given = arrays()
    given["ids"][2:4] = ["caf\u00e9", " padded"]
    pool, path = tmp_path / "pool.h5", tmp_path / "list"
    mmselect.write_pool(pool, **given)
    path.write_text(text)
    found = cli("select", pool, "-b", 1, "-s", "random", "--exclude", path)
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert "exclude: expected ids of the pool, found" in found.err and CAUSES[text] in found.err
    skipped = cli("select", pool, "-b", 1, "-s", "random", "--exclude", path, "--ignore-unknown")
    assert skipped.code == 0 and CAUSES[text] in skipped.err


def test_no_cause_is_made_up(pool: Path) -> None:
    for name in ("S001", "s0 01", "\ud800"):
        with pytest.raises(SelectionError) as caught:
            mmselect.select(pool, "random", 1, exclude=[name])
        assert str(caught.value).endswith(": " + (name if name.isascii() else "\\ud800"))


def test_integer_ids_with_blanks(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, **{**arrays(), "ids": np.arange(60)})
    with pytest.raises(SelectionError, match="' 7' differs from the pool's '7' only by blanks"):
        mmselect.select(path, "random", 1, exclude=[" 7"])


# -- provenance -----------------------------------------------------------------------------------


def test_provenance_tells_lists_and_conditions(pool: Path, cli, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.csv"
    one.write_text("s001\ns002\n")
    two.write_text("id\ns002\ns001\n")
    more = ("--exclude", one, "--exclude", two, "--where", "loss >= 0", "--ignore-mask")
    told = cli("select", pool, "-b", 1, "-s", "random", *more, "--format", "json")
    made = json.loads(told.out)["provenance"]
    lists = made["lists"]["exclude"]["files"]
    assert [each["source"] for each in lists] == [str(one), str(two)]
    assert lists[0]["digest"] == lists[1]["digest"] and lists[0]["ids"] == 2
    assert made["where"] == ["loss>=0"] and made["ignore_mask"] is True
    python = mmselect.select(pool, "random", 1, exclude=["s002", "s001"]).provenance
    digest = lists[0]["digest"]
    files = [{"ids": 2, "digest": digest}]
    assert python["lists"] == {"exclude": {"rows": 2, "digest": digest, "files": files}}
    other = mmselect.select(pool, "random", 1, exclude=["s002"]).provenance
    assert other["lists"]["exclude"]["digest"] != digest
    assert not {"lists", "where", "ignore_mask"} & {*mmselect.select(pool, "random", 1).provenance}


def test_bytes_that_are_no_text_in_a_condition(pool: Path, cli) -> None:
    bad = "caption!=\udcff"
    told = cli("select", pool, "-b", 1, "-s", "random", "--where", bad, "--format", "json")
    assert json.loads(told.out)["provenance"]["where"] == [bad]


# -- test rows ------------------------------------------------------------------------------------


def split_pool(path: Path, words: object) -> Path:
    mmselect.write_pool(path, **{**arrays(), "metadata": {"split": words}})
    return path


def test_test_rows_among_the_candidates_are_told(tmp_path: Path, cli) -> None:
    words = np.array(["train", "test", "val"] * 20)
    pool = split_pool(tmp_path / "pool.h5", words)
    said = "of the 50 candidates are test rows by /metadata/split; --where split=train leaves them"
    for command in (["select", "-b", 1], ["score"]):
        found = cli(command[0], pool, "-s", "entropy", *command[1:])
        assert found.err.count("note:") == 1 and f"note: 20 {said} out" in found.err
        for condition in ("split=train", "split=test"):
            asked = cli(command[0], pool, "-s", "entropy", *command[1:], "--where", condition)
            assert "test rows" not in asked.err
    without = [i for i, word in zip(arrays()["ids"], words, strict=True) if word != "test"]
    assert mmselect.score(pool, "entropy", among=without).provenance["warnings"] == [
        "among: 20 rows taken away"
    ]


def test_splits_without_train_or_without_text(tmp_path: Path) -> None:
    pool = split_pool(tmp_path / "a.h5", np.array(["test", "fit"] * 30))
    [note] = mmselect.score(pool, "entropy").provenance["warnings"]
    assert "--where split!=test leaves them out" in note
    numbers = split_pool(tmp_path / "b.h5", np.arange(60) % 2)
    assert mmselect.score(numbers, "entropy").provenance["warnings"] == []


# -- Label Studio ---------------------------------------------------------------------------------


def test_a_column_called_id_stays_in_the_tasks(pool: Path, cli) -> None:
    with h5py.File(pool, "r+") as handle:
        handle["metadata/id"] = np.arange(9000, 9060)
        handle["metadata/metadata_id"] = np.arange(60)
    picks = mmselect.select(pool, "entropy", 2)
    found = cli("select", pool, "-s", "entropy", "-b", 2, "--format", "label-studio").out
    for task, name, row in zip(json.loads(found), picks.ids, picks.indices, strict=True):
        assert task["data"]["id"] == name and task["data"]["metadata_id"] == row
        assert task["data"]["metadata_metadata_id"] == 9000 + row


def test_tasks_without_metadata_hold_the_id(pool: Path, cli) -> None:
    with h5py.File(pool, "r+") as handle:
        del handle["metadata"]
    found = cli("select", pool, "-s", "entropy", "-b", 1, "--format", "label-studio")
    [name] = mmselect.select(pool, "entropy", 1).ids
    assert json.loads(found.out) == [{"data": {"id": name}, "meta": {"rank": 1}}]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_without_an_end_is_no_list(pool: Path, cli) -> None:
    found = cli("select", pool, "-b", 2, "--exclude", "/dev/zero")
    assert found == (1, "", "error: /dev/zero: expected a list, found a device without an end\n")
    assert cli("select", pool, "-b", 2, "--exclude", "/dev/null", "-q").code == 0
