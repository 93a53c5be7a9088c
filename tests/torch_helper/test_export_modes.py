"""Dropout passes, and the state in which a model is left: modes, random numbers, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmselect.errors import MmselectError, ParameterError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402
from torch_helper.export_models import EXPORT, TwoTower, computed, data, loader  # noqa: E402
from torch_helper.test_export import read, same  # noqa: E402

from mmselect.torch import export_pool  # noqa: E402
from mmselect.torch.export.batches import moved  # noqa: E402
from mmselect.torch.export.blocks import leaving  # noqa: E402

x = data()


def state(model: nn.Module) -> tuple[Any, ...]:
    """Modes of all submodules, their hooks, parameters and buffers, and the random state."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    modes = [module.training for module in model.modules()]
    numbers = [tensor.tolist() for tensor in model.state_dict().values()]
    grads = [parameter.grad for parameter in model.parameters()]
    return modes, hooks, numbers, grads, torch.random.get_rng_state().tolist()


@pytest.mark.parametrize("end", ["well", "error in the model", "error in the loader", "Ctrl-C"])
def test_the_model_is_left_as_it_was(tmp_path: Path, end: str) -> None:
    model = TwoTower().train()
    model.text_encoder.eval()
    model.fusion.drop.training = False
    before = state(model)

    def batches() -> Iterator[Any]:
        for index, batch in enumerate(loader()):
            if index == 2 and end == "error in the loader":
                raise ValueError("a broken image")
            if index == 2 and end == "Ctrl-C":
                raise KeyboardInterrupt
            if index == 2 and end == "error in the model":
                del batch["text"]
            torch.rand(3)
            yield batch

    if end == "well":
        export_pool(model, batches(), tmp_path / "pool.h5", **EXPORT)
    else:
        with pytest.raises((ValueError, KeyboardInterrupt, TypeError)):
            export_pool(model, batches(), tmp_path / "pool.h5", **EXPORT)
    assert state(model) == before
    assert torch.backends.mha.get_fastpath_enabled()
    assert (tmp_path / "pool.h5").exists() == (end == "well")


def test_modes_go_back_through_train() -> None:
    """Some layers merge weights when they go to eval, and take them apart in train."""
    from mmselect.torch.export.modes import evaluating

    class Merging(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Any:
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(2, 2), nn.Dropout())
    model[1].training = False
    with evaluating(model):
        assert model[0].merged
    assert not model[0].merged
    assert model[0].training and not model[1].training


def masks(model: nn.Module) -> list[Any]:
    """Inputs and outputs of every dropout layer while a model runs."""
    seen: list[Any] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda m, i, o: seen.append((m, i[0], o)))
    return seen


def test_dropout_passes_drop_out_and_nothing_else_trains(tmp_path: Path) -> None:
    model = TwoTower()
    seen = masks(model)
    export_pool(model, [x], tmp_path / "pool.h5", **EXPORT)
    found = read(tmp_path / "pool.h5")
    passes = found["/dropout_logits"]
    assert passes.shape == (22, 3, 4)
    assert len({array.tobytes() for array in passes.transpose(1, 0, 2)}) == 3
    dropped = [(i, o) for module, i, o in seen if module is model.fusion.drop]
    active = [(i, o) for i, o in dropped if not torch.equal(i, o)]
    assert len(active) == 3
    for (_, o), logits in zip(active, passes.transpose(1, 0, 2), strict=True):
        kept = (o != 0).float().mean()
        assert 0.3 < kept < 0.7  # p = 0.5
        assert np.allclose(model.fusion.fc(o).detach(), logits, atol=1e-6)
    image = computed(model)["/features/image"]  # batch norm in eval mode, also in those passes
    for i, _ in active:
        assert np.allclose(i[:, :5], image, atol=1e-6)
    same(found, computed(model))


def test_the_mean_of_many_passes_is_the_logits_of_a_linear_fusion(tmp_path: Path) -> None:
    model = TwoTower(p=0.2)
    options = EXPORT | {"dropout_passes": 4000, "coalitions": False}
    export_pool(model, [x], tmp_path / "pool.h5", **options)
    found = read(tmp_path / "pool.h5")
    mean, spread = found["/dropout_logits"].mean(1), found["/dropout_logits"].std(1)
    assert (np.abs(mean - found["/multimodal_logits"]) <= 5 * spread / 4000**0.5 + 1e-5).all()


def test_random_numbers_follow_from_the_seed(tmp_path: Path) -> None:
    def passes(seed: int, noise: int) -> Any:
        torch.manual_seed(noise)
        path = tmp_path / "pool.h5"
        export_pool(TwoTower(), loader(), path, **EXPORT | {"seed": seed})
        return read(path)["/dropout_logits"]

    assert np.array_equal(passes(7, noise=1), passes(7, noise=2))
    assert not np.array_equal(passes(7, noise=1), passes(8, noise=1))


def test_dropout_inside_a_fused_transformer_layer(tmp_path: Path) -> None:
    """In eval mode without gradients, PyTorch would run this layer without looking inside."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), layer, nn.Flatten())
    export_pool(model, [x["image"]], tmp_path / "pool.h5", dropout_passes=2)
    found = read(tmp_path / "pool.h5")
    first, second = found["/dropout_logits"].transpose(1, 0, 2)
    assert (first != second).any(axis=1).all()
    model.eval()
    with torch.no_grad():
        assert np.allclose(found["/multimodal_logits"], model(x["image"]), atol=1e-5)


class Idle(nn.Module):
    """A dropout layer that forward does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, z: Any) -> Any:
        return z


NO_DROPOUT = {
    "none": (lambda: nn.Linear(6, 3), r"expected dropout layers in the model, found none"),
    "p = 0": (lambda: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0)), "found none with p > 0"),
    "idle": (Idle, "expected dropout layers that run in a forward pass, found none"),
}


@pytest.mark.parametrize("case", NO_DROPOUT)
def test_without_dropout_layers(tmp_path: Path, case: str) -> None:
    make, message = NO_DROPOUT[case]
    with pytest.raises(ParameterError, match=message):
        export_pool(make(), [x["image"]], tmp_path / "pool.h5", dropout_passes=2)
    assert list(tmp_path.iterdir()) == []


def test_passes_cannot_be_negative(tmp_path: Path) -> None:
    with pytest.raises(
        MmselectError, match="dropout_passes: expected a whole number of at least 0, found -1"
    ):
        export_pool(TwoTower(), loader(), tmp_path / "pool.h5", dropout_passes=-1)


def test_a_function_that_puts_the_model_into_eval_mode(tmp_path: Path) -> None:
    model = TwoTower()
    options = {"function": lambda b: {"multimodal_logits": model.eval()(b["image"], b["text"])}}
    with pytest.raises(ParameterError, match="expected dropout layers that run"):
        export_pool(model, loader(), tmp_path / "pool.h5", dropout_passes=2, **options)


def test_the_generator_of_the_loader_goes_on(tmp_path: Path) -> None:
    """As if the export had not been: the next epoch of a training is what it would have been."""
    generator = torch.Generator().manual_seed(3)
    batches = loader(shuffle=True, generator=generator)
    state = generator.get_state()
    export_pool(TwoTower(), batches, tmp_path / "pool.h5", ids="id", labels="label")
    assert torch.equal(generator.get_state(), state)


def test_packed_sequences_keep_a_part_on_the_cpu() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    for batch in (packed, {"words": packed}, (packed, torch.ones(2))):
        there = torch.utils._pytree.tree_leaves(moved(batch, torch.device("meta")))
        assert [tensor.device.type for tensor in there[:2]] == ["meta", "cpu"]


def test_memory_that_the_loader_uses_again() -> None:
    """A batch waits for its shard, and a function may hand through what it got."""
    given = torch.ones(2, 3)
    block = leaving({"/features/a": given})
    given.zero_()
    assert block.values["/features/a"].all()
