"""Strategies of other packages, installed for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

GOOD = """
import numpy as np
from mmselect import Need, Parameter, Picks, Strategy


def largest_logit(arrays, parameters):
    return {"score": parameters["sign"] * arrays["/multimodal_logits"].max(axis=1).astype(float)}


def every_other(batch, k, rng):
    return Picks(np.arange(0, 2 * k, 2))


strategies = [
    Strategy(
        name="largest-logit",
        kind="score",
        summary="largest logit of the fused head",
        function=largest_logit,
        needs=(Need(("/multimodal_logits",)),),
        parameters=(Parameter("sign", -1.0, "which end comes first"),),
    ),
    Strategy(name="every-other", kind="batch", summary="every other", function=every_other),
]
"""

POINTS = """[mmselect.strategies]
good = good_plugin:strategies
broken = broken_plugin:strategies
nothing = good_plugin:GONE
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel by hand and install it with pip, without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    wheel = folder / "mmselect_example-1.0-py3-none-any.whl"
    info = "mmselect_example-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("good_plugin.py", GOOD)
        archive.writestr("broken_plugin.py", "raise RuntimeError('no luck\\ntoday')\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: mmselect-example\nVersion: 1.0\n"
        )
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/entry_points.txt", POINTS)
        archive.writestr(f"{info}/RECORD", "")
    target = folder / "site"
    options = ["--no-index", "--no-deps", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return target


def mmselect(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "mmselect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_installed_strategy_works_like_a_built_in_one(site: Path, pool: Path) -> None:
    found = mmselect(site, "select", str(pool), "-s", "largest-logit", "-b", "5", "-p", "sign=1")
    assert found.returncode == 0 and len(found.stdout.split()) == 5
    found = mmselect(site, "select", str(pool), "-s", "every-other", "-b", "3")
    assert found.stdout.split() == ["s001", "s003", "s005"]
    found = mmselect(site, "select", str(pool), "-s", "largest-logit", "-b", "5", "-p", "sing=1")
    assert found.returncode == 2 and "strategy largest-logit: expected one of sign" in found.stderr


def test_a_broken_plugin_is_reported_and_skipped(site: Path, pool: Path) -> None:
    found = mmselect(site, "strategies", "--format", "json")
    assert found.returncode == 0
    assert {"largest-logit", "every-other", "smem"} <= {r["name"] for r in json.loads(found.stdout)}
    said = "plugin 'broken' (broken_plugin:strategies) is skipped: RuntimeError: no luck"
    assert said in found.stderr and "plugin 'nothing'" in found.stderr
    assert "Traceback" not in found.stderr
    assert mmselect(site, "select", str(pool), "-s", "smem", "-b", "5").returncode == 0


def test_info_counts_installed_strategies(site: Path, pool: Path) -> None:
    found = json.loads(mmselect(site, "info", str(pool), "--format", "json").stdout)
    assert "largest-logit" in found["strategies"]["can_run"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mmselect select -s e", ["entropy", "every-other"]),
        ("mmselect strategies larg", ["largest-logit"]),
        ("mmselect score -s largest-logit -p ", ["sign="]),
    ],
)
def test_names_are_completed(
    site: Path, monkeypatch: pytest.MonkeyPatch, line: str, offered: list[str]
) -> None:
    monkeypatch.setenv("_MMSELECT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    found = mmselect(site)
    assert (found.stdout.split(), found.stderr) == (offered, "")
