"""Options: said once, and the same on the command line and in Python."""

from __future__ import annotations

import inspect
import json
import os
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer
from conftest import Result, arrays

import mmselect
from mmselect import ask
from mmselect.cli import COMMANDS
from mmselect.cli.options import Pools, with_options
from mmselect.core.limits import LIMITS
from mmselect.embedding import embed
from mmselect.engine import DEFAULT_MEMORY
from mmselect.errors import UsageError
from mmselect.lists import read_list
from mmselect.option import asking, id_list, options
from mmselect.replay.runs import replay

ASKED = {
    "score": (ask.Scoring, mmselect.score),
    "select": (ask.Selecting, mmselect.select),
    "embed": (ask.Embedding, embed),
    "replay": (ask.Replaying, replay),
}
ALSO = {"check": ask.Reading, "align": ask.Aligning}
COMMAND_ONLY = {"pools", "output", "form", "quiet", "nearest", "dry_run", "context"}
COMMAND_ONLY |= {"target", "report", "runs", "combine", "columns", "predict", "split"}

REFUSED: dict[str, list[Any]] = {
    "memory": [0, -1, 1.5, "1e400", "lots", "0GB", "9" * 400],
    "threads": [0, -1, 1.5, "9" * 400, True, "two"],
    "seed": [-1, 0.5, "9" * 400, "one"],
    "dim": [0, -3, 2.5, "9" * 400],
    "rounds": [-1, 1.5, "9" * 400],
    "seeds": [0, 1.5],
    "jobs": [0, 0.5],
    "epochs": [0, 1.5],
    "warmup": [-1, 1.5],
    "batch_size": [1, 2.5],
    "prototypes": [-1, 1.5],
    "budget": [0, -1, 1.5, "0%", "101%", "nan%", "1e400%", "9" * 400, "9" * 5000, ""],
    "start_budget": [0, "0%"],
    "test_fraction": [0, 1, "nan", "1e400", "half"],
    "rate": [0, -1, "inf", "1e400"],
    "tau": [0, "nan"],
    "form": ["sparse"],
    "spread": ["d3"],
    "activation": ["tanh"],
    "engine": ["lots", "processes=2", "dask="],
    "where": ["loss", "=3", "loss~3", "my column=3"],
}
"""Values that an option refuses, whoever gives them; `strategy`, lists and flags are below."""


def parameters_of(command: str) -> dict[str, inspect.Parameter]:
    found = {each.__name__: with_options(each) for each in COMMANDS}
    return dict(inspect.signature(found[command], eval_str=True).parameters)


@pytest.mark.parametrize("command", ASKED)
def test_command_and_function_take_the_same(command: str) -> None:
    asked, function = ASKED[command]
    said, given = parameters_of(command), inspect.signature(function).parameters
    names = {field.name for field in fields(asked)}
    assert set(said) - COMMAND_ONLY - names - {"force"} == set()
    assert names <= set(said) and names <= set(given)
    for field in fields(asked):
        assert given[field.name].default == field.default is not MISSING
        shown, option = said[field.name].default, options(asked)[field.name]
        if option.required:
            assert shown is inspect.Parameter.empty
        elif shown is not None:  # what help shows as the default reads as the default
            assert option.parse(field.name, shown) == option.parse(field.name, field.default)


@pytest.mark.parametrize("command", [*ASKED, *ALSO])
def test_every_option_refuses_the_same_values(
    command: str, cli, pool: Path, tmp_path: Path
) -> None:
    asked = ALSO.get(command) or ASKED[command][0]
    required = {"embed": ["-o", tmp_path / "e.h5"], "align": ["-o", tmp_path / "a.h5"]}
    tried = 0
    for name, option in options(asked).items():
        for value in REFUSED.get(name, []):
            with pytest.raises(UsageError) as error:
                asked(**{name: value})
            assert str(error.value).startswith(f"{name}: expected ")
            assert len(str(error.value)) < 250
            flag = option.names[0] if option.names else f"--{name.replace('_', '-')}"
            more = ["-b", 1] if command == "select" and name != "budget" else []
            found = cli(command, pool, *required.get(command, []), *more, f"{flag}={value}")
            assert (found.code, found.out) == (2, ""), (name, value)
            assert found.err.count("\n") == 1 and f"{name}: expected " in found.err
            tried += 1
    assert tried or command == "check"
    assert not (tmp_path / "e.h5").exists()


def test_python_refuses_what_only_python_can_say() -> None:
    for name, value in (
        ("strategy", 3),
        ("exclude", "s001"),
        ("exclude", 7),
        ("ignore_mask", "no"),
        ("ignore_unknown", 1),
        ("memory", None),
        ("seed", 10**5000),
        ("where", 3),
        ("where", b"loss<3"),
        ("parameters", 3),
    ):
        with pytest.raises(UsageError, match=rf"^{name}: expected "):
            ask.Selecting(**{name: value})
    with pytest.raises(UsageError, match=r"^-p: expected NAME=VALUE, found 3"):
        ask.Selecting(parameters=[3])
    with pytest.raises(UsageError, match=r"^strategies: expected names, found 3"):
        ask.Replaying(strategies=3)
    assert ask.Selecting(threads=None).threads is None
    (condition,) = ask.Selecting(where="loss<3").where or ()
    assert ask.Selecting(where=condition).where == (condition,)


def test_unknown_keyword_names_the_one_that_was_meant(tmp_path: Path) -> None:
    for call, meant in (
        (lambda: mmselect.select("pool.h5", bugdet=3), "'bugdet'; did you mean 'budget'"),
        (lambda: mmselect.select(featurse={"image": []}), "did you mean 'features'"),
        (lambda: mmselect.score("pool.h5", strateyg="smem"), "did you mean 'strategy'"),
        (lambda: mmselect.pack(tmp_path / "p.h5", joni="id"), "did you mean 'join'"),
        (lambda: mmselect.look("pool.h5", outptu="page.html"), "did you mean 'output'"),
        (lambda: mmselect.write_pool(tmp_path / "p.h5", lables=[0]), "did you mean 'labels'"),
    ):
        with pytest.raises(TypeError, match=meant):
            call()


def test_python_takes_what_the_command_line_takes(pool: Path) -> None:
    picks = mmselect.select(
        pool,
        "smem",
        "10%",
        memory="64MB",
        threads="2",
        seed="3",
        parameters=["beta=0.5"],
        exclude=np.array(["s001", "s002"]),
        where="loss<0.5",
    )
    again = mmselect.select(
        pool, "smem", 6, memory=64_000_000, parameters={"beta": 0.5}, where=["loss<0.5"]
    )
    assert picks.ids == again.ids and picks.provenance["seed"] == 3


@asking
class More(ask.Ask):
    also: tuple[str, ...] | None = id_list("Ids too")


GOT: list[More] = []


def more(pools: Pools, ask: More) -> None:
    GOT.append(ask)


def test_a_new_list_is_one_field() -> None:
    lone = typer.Typer()
    lone.command()(with_options(more))
    lone(["a.h5", "--also", os.devnull, "--exclude", os.devnull], standalone_mode=False)
    empty = read_list(os.devnull)
    assert [(got.also, got.exclude) for got in GOT] == [((empty,), (empty,))]


def test_words_of_the_options_are_those_of_the_core() -> None:
    allowed = LIMITS["activation"].choices
    for word in allowed:
        assert ask.Scoring(activation=word).activation == word
    assert ask.Reading().memory == DEFAULT_MEMORY
    shown = options(ask.Scoring)["activation"].metavar
    assert shown == "|".join(allowed)


@pytest.mark.torch
def test_defaults_of_align_are_those_of_its_function() -> None:
    align = pytest.importorskip("mmselect.torch")
    given = inspect.signature(align.align_features).parameters
    for field in fields(ask.Aligning):
        assert given[field.name].default == field.default, field.name


# -- given twice ----------------------------------------------------------------------------------


def test_an_option_has_a_value(cli) -> None:
    for command, option in (
        ("select", "--output"),
        ("select", "--nearest"),
        ("select", "--labeled"),
        ("score", "-p"),
        ("replay", "--report"),
        ("replay", "--runs"),
    ):
        found = cli(command, "no.h5", option, "")
        assert (found.code, found.out) == (2, "")
        assert found.err == f"error: {option}: expected a value, found ''\n"


@pytest.mark.parametrize(
    "twice",
    [
        ["-b", 2, "-b", 3],
        ["-b", 2, "--budget", 3],
        ["-b", 2, "--seed", 1, "--seed=1"],
        ["-b", 2, "-q", "-q"],
        ["-b", 2, "-s", "smem", "--strategy", "smem"],
        ["-b", 2, "--format", "ids", "--format", "ids"],
    ],
)
def test_an_option_is_given_once(pool: Path, cli, twice: list[Any]) -> None:
    found = cli("select", pool, *twice)
    assert (found.code, found.out) == (2, "") and "expected once, found it twice" in found.err


def test_lists_are_united(pool: Path, cli, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("s001\ns002\n")
    two.write_text("s002\ns003\n")
    found = cli("select", pool, "-s", "random", "-b", 47, "--exclude", one, "--exclude", two)
    assert found.code == 0 and not {"s001", "s002", "s003"} & set(found.out.split())
    assert found.err == "note: exclude: 3 rows taken away\n"
    among = cli("select", pool, "-s", "random", "-b", 3, "-q", "--among", one, "--among", two)
    assert sorted(among.out.split()) == ["s001", "s002", "s003"]
    both = cli("select", pool, "-s", "random", "-b", 1, "--among", one, "--labeled", two)
    assert both.out == "s001\n"
    assert both.err == "note: labeled: 2 rows taken away\nnote: among: 47 rows taken away\n"


def test_standard_input_is_read_once(pool: Path, cli, tmp_path: Path) -> None:
    found = cli("select", pool, "-b", 1, "--exclude", "-", "--exclude", "-")
    assert found.code == 2 and "found --exclude, --exclude" in found.err
    # what else is wrong is said before anybody waits for input
    assert cli("select", pool, "-b", 0, "--exclude", "-").code == 2


def test_an_empty_list_to_pick_from_is_a_list(pool: Path, cli) -> None:
    assert cli("select", pool, "-b", 1, "--among", os.devnull).code == 1
    assert mmselect.score(pool, "entropy", among=[]).ids == []
    assert len(mmselect.score(pool, "entropy", exclude=[]).ids) == 50


def test_the_pools_mask_may_be_ignored(pool: Path, cli) -> None:
    found = cli("select", pool, "-s", "random", "-b", 60, "--ignore-mask")
    assert len(found.out.split()) == 60
    assert "ignore-mask: 10 rows of the pool's mask do not count as labeled" in found.err
    listed = mmselect.select(pool, "random", 59, ignore_mask=True, labeled=["s000"])
    assert "s000" not in listed.ids and listed.provenance["labeled"] == 1
    added = mmselect.select(pool, "random", 49, labeled=["s000", "s001"])
    assert added.provenance["labeled"] == 11
    assert "labeled: 1 row taken away" in added.provenance["warnings"]


# -- where ----------------------------------------------------------------------------------------


@pytest.fixture
def columns(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    given = arrays()
    n = len(given["ids"])
    given["labeled"] = np.zeros(n, bool)
    made = {
        "vendor": np.array(["google", "twitter", "äé ="] * (n // 3)),
        "size": np.arange(n) % 7,
        "loss": np.linspace(0, 1, n, dtype=np.float32),
        "new": np.arange(n) % 2 == 0,
        "huge": np.full(n, 2**63 - 1) - np.arange(n),
    }
    made["loss"][5] = np.nan
    path = tmp_path / "columns.h5"
    mmselect.write_pool(path, **{**given, "metadata": made})
    return path, made


CONDITIONS = {
    "vendor=google": lambda m: m["vendor"] == "google",
    "vendor != google": lambda m: m["vendor"] != "google",
    "vendor=äé =": lambda m: m["vendor"] == "äé =",
    "vendor=3": lambda m: np.zeros(60, bool),
    "size=3": lambda m: m["size"] == 3,
    "size=3.0": lambda m: m["size"] == 3,
    "size!=3": lambda m: m["size"] != 3,
    "size<2.5": lambda m: m["size"] < 2.5,
    "size <= 2": lambda m: m["size"] <= 2,
    "loss>0.5": lambda m: m["loss"] > 0.5,
    "loss>=1": lambda m: m["loss"] >= 1,
    "loss<1e300": lambda m: ~np.isnan(m["loss"]),
    "new=1": lambda m: m["new"],
    "new=True": lambda m: m["new"],
    "new=false": lambda m: ~m["new"],
    "huge=9223372036854775807": lambda m: m["huge"] == 2**63 - 1,
    "huge<99999999999999999999": lambda m: np.ones(60, bool),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_where_keeps_the_rows_that_fit(
    columns: tuple[Path, dict[str, np.ndarray]], condition: str, cli
) -> None:
    path, made = columns
    expected = np.flatnonzero(CONDITIONS[condition](made)).tolist()
    assert mmselect.score(path, "entropy", where=condition).indices.tolist() == expected
    found = cli("score", path, "-s", "entropy", "--where", condition)
    assert found.code == 0 and found.out.count("\n") == len(expected) + 1
    gone = 60 - len(expected)
    assert re.search(rf"^note: where .*: {gone} rows? taken away$", found.err, re.MULTILINE)


def test_every_where_must_hold(columns: tuple[Path, dict[str, np.ndarray]], cli) -> None:
    path, made = columns
    found = cli(
        "score", path, "-s", "entropy", "--where", "size>2", "--where", "vendor=google", "-q"
    )
    expected = int(((made["size"] > 2) & (made["vendor"] == "google")).sum())
    assert found.out.count("\n") - 1 == expected


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("vendr=google", "(huge, loss, new, size, vendor), found 'vendr'"),
        ("vendor<google", "expected = or != for a column of text, found '<'"),
        ("size=many", "expected a number for a column of numbers, found 'many'"),
        ("size<nan", "expected a number for a column of numbers, found 'nan'"),
        ("size<1e400", "expected a number for a column of numbers, found '1e400'"),
        (f"loss<{'9' * 400}", "expected a number for a column of numbers, found '9999"),
        ("size=", "expected a number for a column of numbers, found ''"),
    ],
)
def test_a_condition_that_does_not_fit_the_pool(
    columns: tuple[Path, dict[str, np.ndarray]], condition: str, said: str, cli
) -> None:
    found = cli("select", columns[0], "-b", 1, "--where", condition)
    assert (found.code, found.out) == (1, "") and found.err.count("\n") == 1
    assert said in found.err and "columns.h5" in found.err and len(found.err) < 600


# -- parameters, spread, faults -------------------------------------------------------------------


def test_auto_takes_no_parameter_that_its_choice_lacks(pool: Path, cli) -> None:
    found = cli("select", pool, "-b", 3, "-p", "beta=0.5")
    assert (found.code, found.out) == (2, "")
    assert (
        "strategy facility: expected one of doubt, sharpen" in found.err
        and "found 'beta'" in found.err
    )
    assert cli("select", pool, "-b", 3, "-p", "doubt=fused").code == 0
    assert cli("score", pool, "-p", "doubt=heads").code == 0


@pytest.mark.parametrize("how", ["d2", "facility"])
@pytest.mark.parametrize("name", ["smem", "entropy", "column:loss", "alignment", "contribution"])
def test_any_score_can_be_spread(pool: Path, name: str, how: str) -> None:
    top = mmselect.select(pool, name, 9)
    picks = mmselect.select(pool, name, 9, spread=how, nearest=True)
    assert len(set(picks.ids)) == 9 and picks.ids != top.ids
    assert picks.provenance["spread"] == how and "spread" not in top.provenance
    assert mmselect.select(pool, name, 5, spread=how).ids == picks.ids[:5]
    assert picks.nearest is not None and set(picks.nearest.nearest) <= set(picks.ids)


def test_only_scores_are_spread(pool: Path, cli) -> None:
    found = cli("select", pool, "-b", 3, "-s", "badge", "--spread", "d2")
    assert found.code == 2 and "spread: strategy badge: picks but gives no scores" in found.err
    auto = cli("select", pool, "-b", 3, "--spread", "d2", "--dry-run")
    assert "strategy auto: doubt --spread d2" in auto.err
    assert auto.out.startswith("strategy     doubt --spread d2\n")
    assert "/features/image" in auto.out
    asked = ("select", pool, "-b", 3, "-s", "entropy", "--dry-run", "--format", "json")
    plain, wide = (json.loads(cli(*asked, *more).out) for more in ([], ["--spread", "facility"]))
    assert wide["spread"] == "facility" and "spread" not in plain
    assert set(wide["reads"]) - set(plain["reads"]) == {"/features/image", "/features/text"}
    assert wide["bytes_to_read"] > plain["bytes_to_read"]
    assert wide["peak_memory"] > plain["peak_memory"]
    bare = pool.parent / "bare.h5"
    mmselect.write_pool(bare, multimodal_logits=arrays()["multimodal_logits"])
    found = cli("select", bare, "-b", 3, "-s", "entropy", "--spread", "facility")
    assert found.code == 1 and "strategy entropy needs /features" in found.err


@pytest.mark.parametrize("form", ["csv", "jsonl", "npy", "h5"])
@pytest.mark.parametrize(
    "name", ["smem", "entropy", "bald", "contribution", "alignment", "column:loss"]
)
def test_no_candidates_are_an_empty_table(
    pool: Path, cli, tmp_path: Path, name: str, form: str
) -> None:
    target = tmp_path / "scores"
    how = ["-s", name, "--format", form, "-o", target]
    assert cli("score", pool, *how, "--among", os.devnull) == Result(
        0, "", "note: among: 50 rows taken away\n"
    )
    empty, full = target.read_bytes(), mmselect.score(pool, name)
    if form == "csv":
        assert empty.decode() == f"{','.join(['id', 'score', *full.components])}\n"
    elif form == "jsonl":
        assert empty == b""
    elif form == "npy":
        assert len(np.load(target)) == 0
        assert np.load(target).dtype.names == ("index", "id", "score", *full.components)
    else:
        with h5py.File(target) as handle:
            assert set(handle) == {"id", "index", "score", *full.components}
            assert all(len(handle[column]) == 0 for column in handle)
    table = mmselect.score(pool, name, among=[])
    for column, values in full.components.items():
        assert table.components[column].dtype == values.dtype
    with h5py.File(pool, "r+") as handle:  # no number of the pool is looked at
        handle["features/image"][:] = np.nan
    assert mmselect.score(pool, name, among=[]).ids == []


def test_a_result_is_shown_in_one_short_line(pool: Path) -> None:
    picks, table = mmselect.select(pool, "smem", 40), mmselect.score(pool, "smem")
    assert repr(picks).startswith(f"Selection(40 picks by smem: {picks.ids[0]}, ")
    assert repr(picks).endswith("and 35 more)") and len(repr(picks)) < 100
    assert repr(table).startswith("Scores(50 candidates by smem, with score, entropy, ")
    assert len(repr(table)) < 200


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_help_fits_80_columns(command: str, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = cli(command, "--help")
    assert found.code == 0 and max(map(len, found.out.splitlines())) <= 80
    assert "list[" not in found.out and "<" not in found.out.replace("!= < <= > >=", "")


def test_text_for_people_fits_80_columns(pool: Path, cli) -> None:
    shown = {
        "strategies": ["strategies", pool],
        "info": ["info", pool],
        "dry run": ["select", pool, "-b", 3, "--dry-run"],
    }
    for what, command in shown.items():
        lines = cli(*command).out.replace(str(pool), "POOL").splitlines()
        assert len(lines) > 8 and max(map(len, lines)) <= 80, what
    lines = cli("strategies").out.splitlines()
    at = next(i for i, line in enumerate(lines) if "pseudo-labels are" in line)
    assert lines[at].startswith("    -p     multilabel = false: ")
    assert lines[at + 1].startswith(" " * 11 + "all classes")
