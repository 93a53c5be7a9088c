from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "scipy", "sklearn", "h5py", "faiss", "torch")


COMMANDS = [["--help"], ["--version"], ["select", "--help"], ["align", "--help"]]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_help_imports_no_numerical_library(arguments: list[str]) -> None:
    code = (
        "import sys; from mmselect.cli import run; code = run(sys.argv[1:]); "
        f"loaded = sorted(set({HEAVY}) & set(sys.modules)); sys.exit(f'{{code}} {{loaded}}')"
    )
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
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
