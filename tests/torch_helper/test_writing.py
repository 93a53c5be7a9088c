"""Pools written from tensors. The package itself never imports torch for this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mmselect

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def test_tensors_of_every_float_type(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    x = torch.randn(4, 3, requires_grad=True)
    half, brain = torch.randn(4, 2).half(), torch.randn(4, 5).bfloat16()
    labels = torch.tensor([0, 1, -1, 2])
    mmselect.write_pool(
        path,
        features={"image": x, "text": half, "sound": brain},
        labels=labels,
        labeled=labels >= 0,
    )
    with mmselect.open_pool(path) as pool:
        assert np.array_equal(pool.columns["/features/image"][:], x.detach().numpy())
        assert pool.columns["/features/text"].dtype == np.float16
        assert np.array_equal(pool.columns["/features/sound"][:], brain.float().numpy())
        assert pool.labeled.tolist() == [True, True, False, True]
