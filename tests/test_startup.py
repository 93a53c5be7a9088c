from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmselect.strategies.registry import BUILT_IN, FAMILIES

HEAVY = ("numpy", "scipy", "sklearn", "h5py", "faiss", "torch", "rich")
SLOW = (*HEAVY, "_hashlib", "asyncio", "concurrent.futures", "importlib.metadata", "logging")
"""What the first page that people see does without."""

UNUSED = (
    *("scipy", "sklearn", "faiss", "joblib", "torch", "rich", "pyarrow"),
    *("mmselect.embedding", "mmselect.looking", "mmselect.replay", "mmselect.torch"),
    *("mmselect.packing.kinds", "mmselect.describe.numbers", "mmselect.pool.checking"),
    *("mmselect.core.coverage", "mmselect.core.parametric", "mmselect.networks"),
    *(
        "mmselect.strategies.coldstart",
        "mmselect.strategies.gradients",
        "mmselect.strategies.systems",
    ),
    "mmselect.pool.writing",
)
"""What a selection by a score does without."""


COMMANDS = [["--help"], ["--version"], ["select", "--help"], ["align", "--help"]]


def test_families_are_those_of_their_modules() -> None:
    for family, names in FAMILIES.items():
        records = import_module(f"mmselect.strategies.{family}").STRATEGIES
        assert tuple(record.name for record in records) == names
    assert {name: BUILT_IN[name].name for name in BUILT_IN} == {name: name for name in BUILT_IN}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_help_imports_no_numerical_library(arguments: list[str]) -> None:
    code = (
        "import sys; from mmselect.cli import run; code = run(sys.argv[1:]); "
        f"loaded = sorted(set({SLOW if arguments == ['--help'] else HEAVY}) & set(sys.modules)); "
        "sys.exit(f'{code} {loaded}')"
    )
    command = [sys.executable, "-c", code, *arguments]
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    found = subprocess.run(command, capture_output=True, text=True, env=unmeasured)
    assert found.stderr == "0 []\n"


def test_the_core_is_importable_on_its_own() -> None:
    code = (
        "import sys, mmselect.core.scores.information; "
        "sys.exit(str(sorted({'h5py', 'typer', 'rich', 'mmselect.pool'} & set(sys.modules))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr == "[]\n"


def test_align_without_torch_says_so_before_it_reads() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from mmselect.cli import run; "
        "sys.exit(run(['align', 'no-such-pool.h5', '-o', 'a.h5']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert (
        found.stderr == "error: align needs torch; install it with: pip install 'mmselect[torch]'\n"
    )


@pytest.mark.parametrize("command", [("select", "-b", "3"), ("select", "-b", "3", "--dry-run")])
def test_a_network_without_torch_says_so_in_one_line(
    pool: Path, cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("vaal", "sraal", "learning-loss"):
        found = cli(command[0], pool, "-s", name, *command[1:])
        way_out = "install it with: pip install 'mmselect[torch]'"
        assert found == (1, "", f"error: strategy {name} needs torch; {way_out}\n")


def test_other_strategies_import_no_torch(pool: Path) -> None:
    commands = (["select", str(pool), "-b", "3", "-q"], ["strategies"], ["info", str(pool)])
    code = (
        f"import sys; from mmselect.cli import run; codes = [run(each) for each in {commands}]; "
        "sys.exit(f'{codes} ' + str('torch' in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr == "[0, 0, 0] False\n"


@pytest.mark.parametrize("strategy", ["entropy", "margin", "random"])
def test_a_score_and_its_highest_rows_import_only_what_they_use(pool: Path, strategy: str) -> None:
    code = (
        "import sys; from mmselect.cli import run; code = run(sys.argv[1:]); "
        f"loaded = sorted(set({UNUSED}) & set(sys.modules)); sys.exit(f'{{code}} {{loaded}}')"
    )
    assert all(find_spec(name) for name in UNUSED if name.startswith("mmselect"))
    command = [sys.executable, "-c", code, "select", str(pool), "-s", strategy, "-b", "3", "-q"]
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    found = subprocess.run(command, capture_output=True, text=True, env=unmeasured)
    assert found.stderr == "0 []\n"
