"""Pipelines, through a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import arrays

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    here = Path(sys.executable).parent
    path = {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    begin = f'mmselect() {{ {sys.executable} -m mmselect "$@"; }}\nset -o pipefail\n'
    return subprocess.run(
        [str(BASH), "-c", begin + script],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **path},
    )


def test_head_ends_a_long_list_quietly(pool: Path) -> None:
    found = shell("mmselect score pool.h5 -q | head -n 1", pool.parent)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("id,score,")
    found = shell("mmselect select pool.h5 -b 50 -q -s smem | head -n 1", pool.parent)
    assert (found.returncode, found.stderr) == (0, "") and found.stdout.count("\n") == 1


def test_a_reader_that_is_gone_before_the_first_byte(pool: Path) -> None:
    found = shell("mmselect score pool.h5 -q | true", pool.parent)
    assert found.stderr == "" and found.returncode == 0


def test_a_help_page_whose_reader_is_gone(pool: Path) -> None:
    found = shell("mmselect select --help | true", pool.parent)
    assert (found.returncode, found.stderr) == (0, "")


def test_exclude_from_a_process_substitution(pool: Path) -> None:
    done = pool.parent / "done"
    done.mkdir()
    ids = arrays()["ids"]
    (done / "a.txt").write_text("\n".join(ids[:20]) + "\n")
    (done / "b.txt").write_text("\n".join(ids[20:40]) + "\n")
    script = "mmselect select pool.h5 -b 10 -q --exclude <(cat done/*.txt)"
    found = shell(script, pool.parent)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.split()) == 10 and set(found.stdout.split()) <= set(ids[40:])


def test_among_from_a_pipe(pool: Path) -> None:
    found = shell("seq -f s%03g 1 5 | mmselect select pool.h5 -b 5 -q --among -", pool.parent)
    assert sorted(found.stdout.split()) == [f"s{i:03d}" for i in range(1, 6)]


def test_sorted_scores_are_the_picks(pool: Path) -> None:
    ranked = "mmselect score pool.h5 -s smem | tail -n +2 | sort -t, -k2 -gr | head -n 5"
    picked = "mmselect select pool.h5 -s smem -b 5"
    first = shell(f"{ranked} | cut -d, -f1", pool.parent)
    assert first.stdout == shell(picked, pool.parent).stdout != ""


def test_a_round_of_labeling(pool: Path) -> None:
    script = """
    mmselect select pool.h5 -s smem -b 5 -q -o first.txt
    mmselect select pool.h5 -s smem -b 5 -q --exclude first.txt > second.txt
    cat first.txt second.txt > both.txt
    mmselect select pool.h5 -s smem -b 10 -q | diff - both.txt
    """
    found = shell(script, pool.parent)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_an_output_may_be_a_pipe(pool: Path) -> None:
    found = shell("mmselect select pool.h5 -b 3 -q -o /dev/stdout | wc -l", pool.parent)
    assert found.stdout.strip() == "3", found.stderr
    found = shell("mmselect select pool.h5 -b 3 -q -o >(cat > ids.txt) && sleep 0.3", pool.parent)
    assert len((pool.parent / "ids.txt").read_text().split()) == 3


def test_a_link_stays_a_link(pool: Path) -> None:
    (pool.parent / "real.txt").write_text("before")
    (pool.parent / "link.txt").symlink_to("real.txt")
    shell("mmselect select pool.h5 -b 3 -q -o link.txt", pool.parent)
    assert (pool.parent / "link.txt").is_symlink()
    assert len((pool.parent / "real.txt").read_text().split()) == 3
