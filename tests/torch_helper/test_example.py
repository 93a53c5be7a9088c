"""The worked example runs from end to end, and what it writes can be used."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import mmselect
from mmselect.pool.checking import check

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_and_select.py"


def test_train_and_select(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLE))["main"]([str(tmp_path / "new")])
    out = capsys.readouterr().out
    first, *others = (float(share) for share in re.findall(r": (\d+\.\d)%", out))
    assert first > 50 and len(others) == 4
    assert sum(others) / 4 > first  # more labels help
    gaps = re.search(r"(\d\.\d+) → (\d\.\d+)", out)
    assert gaps is not None and float(gaps[2]) < float(gaps[1])
    for name in ("smem", "bmmal", "mmcsal", "random"):
        assert re.search(rf"^{name} +\d+ classes among 150 picks", out, re.MULTILINE)
    for name, ran in (("pool.h5", "bmmal"), ("aligned.h5", "mmcsal")):
        path = tmp_path / "new" / name
        assert check([path]).problems == []
        assert len(mmselect.select(path, ran, 5).ids) == 5
