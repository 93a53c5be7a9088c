"""Files of PyTorch as sources of `pack`: tensors by name, and nothing in them is run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import mmselect  # noqa: E402
from mmselect.errors import MmselectError  # noqa: E402

N = 20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_a_dictionary(here: Path, old: bool) -> None:
    z, brain = torch.randn(N, 4), torch.randn(N, 3).bfloat16()
    head = torch.nn.Linear(7, 5)
    inside = {
        "z": z,
        "deep": {"brain": brain},
        "model": head.state_dict(),
        "label": torch.arange(N),
    }
    torch.save(inside, "x.pt", _use_new_zipfile_serialization=not old)
    mmselect.pack(
        "pool.h5",
        "x.pt",
        features={"image": "z", "text": "deep.brain"},
        classifier_weight={"image+text": "model.weight"},
        classifier_bias="model.bias",
    )
    with mmselect.open_pool("pool.h5") as pool:
        assert pool.columns["/features/image"][:].tolist() == z.tolist()
        assert pool.columns["/features/text"][:].tolist() == brain.float().tolist()
        weight = np.concatenate(
            [pool.constants[f"/classifier/weight/{m}"] for m in ("image", "text")], 1
        )
        assert weight.tolist() == head.weight.tolist()
        assert pool.constants["/classifier/bias"].tolist() == head.bias.tolist()


def test_a_tensor_alone_needs_no_key(here: Path) -> None:
    z = torch.randn(N, 4, dtype=torch.float16)
    torch.save(z, "x.pt")
    mmselect.pack("pool.h5", features={"image": "x.pt"})
    with mmselect.open_pool("pool.h5") as pool:
        assert pool.columns["/features/image"][:].tolist() == z.tolist()


class Owned:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return open, ("owned", "w")


def test_nothing_in_a_file_is_run(here: Path, cli: Callable[..., Result]) -> None:
    torch.save({"z": Owned()}, "x.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Owned()))
    for name in ("x.pt", "plain.pt"):
        result = cli("pack", "-o", "pool.h5", "--features", f"image={name}")
        assert result.code == 1
        assert result.err.startswith(f"error: {name}: expected tensors: it holds Python objects")
        assert result.err.count("\n") == 1
    assert not Path("owned").exists()


def test_what_is_no_matrix_of_numbers(here: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    torch.save(
        {"one": torch.tensor(1.0), "sparse": sparse, "c": torch.randn(3, 2).cfloat()}, "x.pt"
    )
    for key, said in (
        ("one", "expected a row per sample, found one number"),
        ("sparse", "expected a row per sample, found torch.sparse_coo"),
        ("c", "expected numbers, found complex64"),
        ("two", "expected one of its tensors as x.pt:KEY, found no 'two'; it has c, one, sparse"),
    ):
        with pytest.raises(MmselectError) as caught:
            mmselect.pack("pool.h5", features={"image": f"x.pt:{key}"})
        assert said in str(caught.value)


def test_bfloat16_of_safetensors(here: Path) -> None:
    from safetensors.torch import save_file

    z = torch.randn(N, 4).bfloat16()
    save_file({"z": z}, "x.safetensors")
    for dtype, same in ((None, z.float()), ("float16", z.float().half())):
        mmselect.pack("pool.h5", features={"image": "x.safetensors:z"}, dtype=dtype)
        with mmselect.open_pool("pool.h5") as pool:
            assert pool.columns["/features/image"][:].tolist() == same.tolist()
