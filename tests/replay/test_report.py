"""What a person and a machine see of a replay."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import browser
import pytest
from conftest import Result
from test_playing import labeled_pool

pytestmark = pytest.mark.usefixtures("few_penalties")

PLAY = ["-b", "6", "--start-budget", "20", "--rounds", "2", "-s", "bmmal,random"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labeled_pool(tmp_path_factory.mktemp("known") / "known.h5")


@pytest.fixture
def kept(known: Path) -> list[object]:
    """Runs that one test has played are there for the others."""
    return ["--runs", known.with_name("runs")]


def test_text(cli: Callable[..., Result], known: Path, kept: list[object]) -> None:
    found = cli("replay", known, *PLAY, "--seeds", "3", *kept)
    assert found.code == 0
    early = r"note: by the spread over the first 2 seeds, 3 will tell differences to random from "
    assert re.fullmatch(rf"{early}about \d+\.\d points on \(80 % power\)\n", found.err)
    assert re.search(r"^3 seeds see  bmmal\nrandom +\d+\.\d$", found.out, re.MULTILINE)
    lines = found.out.splitlines()
    assert any(re.match(r"bmmal +\d+\.\d ± \d+\.\d +[+-]\d+\.\d \[", line) for line in lines)
    assert any(line.startswith("wins over") for line in lines)
    assert any(re.match(r"bmmal +\d+\.\d / \d+\.\d +\d+\.\d / \d+\.\d", line) for line in lines)
    assert any(line.startswith("worse than random, beyond noise:") for line in lines[-2:])


def test_many_strategies_are_named_with_the_correction(
    cli: Callable[..., Result], known: Path, kept: list[object], tmp_path: Path
) -> None:
    play = ["replay", known, *PLAY[:-1], "bmmal,entropy,random", "--seeds", "2", *kept]
    found = cli(*play, "--report", tmp_path / "report")
    last = "intervals against random hold for all 2 strategies at once"
    assert last in found.out.splitlines()
    page = (tmp_path / "report" / "report.html").read_text()
    assert last in page and "accuracy / balanced" in page
    assert not re.search(r"\$[a-z]", page.partition("<script")[0])


def test_one_seed_claims_nothing(
    cli: Callable[..., Result], known: Path, kept: list[object]
) -> None:
    found = cli("replay", known, *PLAY, "--seeds", "1", *kept)
    assert found.code == 0 and "wins over" not in found.out
    assert "differences cannot be told from noise" in found.out
    assert "nan" not in found.out


def test_csv_and_json(
    cli: Callable[..., Result], known: Path, kept: list[object], tmp_path: Path
) -> None:
    play = ["replay", known, *PLAY, "--seeds", "2", *kept]
    rows = list(csv.DictReader(io.StringIO(cli(*play, "--format", "csv").out)))
    assert [r["labeled"] for r in rows] == ["20", "26", "32"] * 4
    assert rows[0]["seconds"] == "" and float(rows[1]["seconds"]) > 0
    target = tmp_path / "out.json"
    done = cli(*play, "--format", "json", "-o", target, "--target", "0.3")
    assert done.code == 0 and done.out == ""
    found = json.loads(target.read_text())
    assert found["summary"]["target"] == 0.3 and found["settings"]["seeds"] == [0, 1]
    assert [r["accuracy"] for r in found["rounds"]] == [float(r["accuracy"]) for r in rows]
    assert len(found["picks"]) == 4 and len(found["picks"][0]["picks"]) == 3
    assert found["summary"]["strategies"]["random"]["area_difference"]["accuracy"] == [0, 0, 0]


def test_a_report_is_a_folder(known: Path, tmp_path: Path, cli) -> None:
    refused = cli("replay", known, "--report", tmp_path / "r.html")
    assert refused.code == 2 and not (tmp_path / "r.html").exists()
    assert "r.html: expected the name of a folder, found that of a page" in refused.err


def test_the_report_needs_nothing_beside_it(
    cli: Callable[..., Result], known: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder" / "report"
    first = cli("replay", known, *PLAY, "--seeds", "2", "--report", folder)
    assert first.code == 0 and f"report: {folder}/report.html" in first.err
    names = {p.name for p in folder.iterdir()}
    stems = ("learning-curves", "contributions", "wins")
    figures = {f"{stem}.{form}" for stem in stems for form in ("svg", "png")}
    assert names == {"report.html", "rounds.csv", "replay.json", "runs", *figures}
    page = (folder / "report.html").read_text()
    assert "default-src 'none'" in page and "unsafe" not in page
    assert not re.search(r'(src|href|style)="(?!#)', page)
    assert f"mmselect replay {known} -b 6" in page and "bmmal" in page
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    again = cli("replay", known, *PLAY, "--seeds", "2", "--report", folder)
    assert again.out == first.out
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_names_cannot_break_the_page(
    cli: Callable[..., Result], kept: list[object], tmp_path: Path
) -> None:
    path = labeled_pool(tmp_path / "<b>&.h5")
    folder = tmp_path / "report"
    assert cli("replay", path, *PLAY, "--seeds", "2", "--report", folder, *kept).code == 0
    page = (folder / "report.html").read_text()
    assert "<b>&.h5" not in page and "&lt;b&gt;&amp;.h5" in page


@pytest.mark.skipif(browser.found() is None, reason="there is no Chromium")
def test_the_page_in_a_browser(
    cli: Callable[..., Result], known: Path, kept: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    play = ["replay", known, *PLAY[:-1], "bmmal,entropy,random", "--seeds", "3", *kept]
    assert cli(*play, "--full", "--report", folder).code == 0
    summary = json.loads((folder / "replay.json").read_text())["summary"]["strategies"]
    with browser.browser() as page:
        for width, dark in ((1280, False), (390, True)):
            page.open(folder / "report.html", width=width, dark=dark)
            assert page.run("document.documentElement.scrollWidth") == width
            rows = page.run(
                "[...document.querySelectorAll('.differences .value')].map(e => e.textContent)"
            )
            means = sorted((summary[n]["area_difference"]["accuracy"][0] for n in summary), key=abs)
            assert [r[1:4] for r in sorted(rows, key=lambda r: float(r[1:4]))] == [
                f"{abs(100 * mean):.1f}" for mean in means[1:]
            ]
            x, y = page.run(
                "(() => { const e = document.querySelector('.chart svg'); e.scrollIntoView();"
                "const b = e.getBoundingClientRect(); return [b.right - 14, b.top + 40]; })()"
            )
            page.click(x, y)
            tip = page.run("document.querySelector('.chart .tip').textContent")
            assert tip.startswith("32 labeled")
            for name, row in summary.items():
                assert f"{name}{100 * row['last'][0]:.1f}" in tip
            assert page.run("document.querySelectorAll('.chart line.full').length") == 6
            page.run("document.querySelector('.keys button').click()")
            assert page.run("document.querySelectorAll('.chart .band').length") == 2 * 6
            assert page.run("document.querySelectorAll('td[data-won][style]').length") > 0
        first, both = tmp_path / "first", tmp_path / "both"
        play = ["replay", known, "--rounds", "0", "--start", "coreset,random", "-b", "8,12"]
        assert cli(*play, "--seeds", "2", "--report", first).code == 0
        assert cli("replay", "--combine", folder, "--report", both).code == 0
        for place, charts in ((first, 6), (both, 0)):
            page.open(place / "report.html", width=390, dark=True)
            assert page.run("document.documentElement.scrollWidth") == 390
            assert page.run("document.querySelectorAll('.chart').length") == charts
        assert page.complaints() == [] and page.requests() == []


def test_without_matplotlib(
    cli: Callable[..., Result], known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = ("matplotlib", "mmselect.replay.report", "mmselect.replay.plots")
    for name in [name for name in sys.modules if name.startswith(drawing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = cli("replay", known, *PLAY, "--seeds", "2", "--report", tmp_path / "report")
    assert found.code == 0 and "figures as files need matplotlib" in found.err
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert names == {"report.html", "rounds.csv", "replay.json", "runs"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--format", "xml"], 2, "format: expected one of text, csv, json, found 'xml'"),
        (["--target", "60"], 2, "target: expected an accuracy above 0 and up to 1, found '60'"),
        (["-s", "random,"], 2, "strategies: expected text, found ''"),
        (["-s", "bald"], 1, "strategy bald needs /dropout_logits"),
        (["-b", "900"], 1, "rounds of 900"),
        (["--report", "{file}"], 1, "cannot be written"),
    ],
)
def test_errors_are_one_line(
    cli: Callable[..., Result], known: Path, arguments: list[str], code: int, words: str
) -> None:
    given = [a.replace("{file}", str(known)) for a in arguments]
    found = cli("replay", known, "--seeds", "2", *given)
    assert found.code == code and words in found.err and found.out == ""
    assert found.err.count("\n") == 1
