"""Single-modal heads: they listen to a model and never change it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from mmselect.errors import ParameterError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mmselect.torch import (  # noqa: E402
    SingleModalHeads,
    multimodal_loss,
    self_distillation_loss,
)

SIZES, CLASSES = {"image": 6, "text": 4}, 5


class Model(torch.nn.Module):
    """Two encoders, a late fusion, and the heads beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = torch.nn.ModuleDict({m: torch.nn.Linear(3, d) for m, d in SIZES.items()})
        self.fusion = torch.nn.Linear(sum(SIZES.values()), CLASSES)
        self.heads = SingleModalHeads(SIZES, CLASSES)

    def forward(self, x: torch.Tensor) -> tuple:
        z = {name: encoder(x).relu() for name, encoder in self.encoders.items()}
        return self.heads(z), self.fusion(torch.cat(list(z.values()), dim=1))

    def trunk(self) -> list:
        return [*self.encoders.parameters(), *self.fusion.parameters()]


def made() -> tuple[Model, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = Model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    x = torch.randn(8, 3, generator=generator)
    return model, x, torch.randint(0, CLASSES, (8,), generator=generator)


@pytest.mark.parametrize("kind", ["bce", "softmax"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_no_gradient_reaches_the_trunk(kind: str, weight: float) -> None:
    model, x, y = made()
    heads, fused = model(x)
    self_distillation_loss(heads, fused, y, weight=weight, kind=kind).backward()
    assert all(parameter.grad is None for parameter in model.trunk())
    assert all(parameter.grad.abs().max() > 0 for parameter in model.heads.parameters())


def test_training_with_heads_changes_the_trunk_in_no_bit() -> None:
    plain, x, y = made()
    with_heads = copy.deepcopy(plain)
    for model, distilled in ((plain, False), (with_heads, True)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            heads, fused = model(x)
            loss = torch.nn.functional.cross_entropy(fused, y)
            if distilled:
                loss = loss + self_distillation_loss(heads, fused, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    pairs = zip(plain.trunk(), with_heads.trunk(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    heads = zip(plain.heads.parameters(), with_heads.heads.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in heads)


def test_the_multimodal_loss_does_train_the_trunk() -> None:
    """The counterpart: what is not detached gets a gradient, so the test above can fail."""
    model, x, y = made()
    z = {name: encoder(x) for name, encoder in model.encoders.items()}
    own = {name: tensor[:, :CLASSES] for name, tensor in z.items() if name == "image"}
    multimodal_loss(own, model.fusion(torch.cat(list(z.values()), dim=1)), y).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.trunk())


def test_heads_are_the_layers_they_say() -> None:
    linear = SingleModalHeads(SIZES, CLASSES)
    x = {name: torch.randn(2, size) for name, size in SIZES.items()}
    for name, logits in linear(x).items():
        head = linear.get_submodule(name)
        expected = x[name].numpy() @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        assert np.allclose(logits.detach().numpy(), expected, atol=1e-5)
    small = SingleModalHeads(SIZES, CLASSES, hidden=7)
    assert small(x)["text"].shape == (2, CLASSES)
    assert [p.shape for p in small.get_submodule("text").parameters()] == [
        (7, 4),
        (7,),
        (CLASSES, 7),
        (CLASSES,),
    ]


def test_a_saved_state_fits_again() -> None:
    first, second = SingleModalHeads(SIZES, CLASSES), SingleModalHeads(SIZES, CLASSES)
    assert set(first.state_dict()) == {f"{m}.{p}" for m in SIZES for p in ("weight", "bias")}
    second.load_state_dict(first.state_dict())
    x = {name: torch.randn(2, size) for name, size in SIZES.items()}
    assert torch.equal(first(x)["image"], second(x)["image"])


WRONG = {
    "none": (lambda: SingleModalHeads({}, 5), "expected at least one modality"),
    "size": (
        lambda: SingleModalHeads({"a": 0}, 5),
        "expected whole sizes of at least 1, found {'a': 0}",
    ),
    "classes": (lambda: SingleModalHeads({"a": 3}, 0), "0 classes"),
    "hidden": (lambda: SingleModalHeads({"a": 3}, 5, hidden=0), "hidden 0"),
    "half a size": (lambda: SingleModalHeads({"a": 3.5}, 5), "found {'a': 3.5}"),
    "text": (lambda: SingleModalHeads({"a": 3}, "5"), "expected whole sizes of at least 1"),
    "a space": (lambda: SingleModalHeads({"a b": 3}, 5), "modality 'a b': expected a name"),
    "no text": (lambda: SingleModalHeads({1: 3}, 5), "modality 1: expected a name"),
    "dot": (lambda: SingleModalHeads({"a.b": 3}, 5), "modality 'a.b': expected a name"),
    "torch's": (lambda: SingleModalHeads({"train": 3}, 5), "modality 'train': expected a name"),
    "missing": (
        lambda: SingleModalHeads(SIZES, 5)({"image": torch.zeros(2, 6)}),
        "expected features of widths {'image': 6, 'text': 4}, found {'image': 6}",
    ),
    "width": (
        lambda: SingleModalHeads(SIZES, 5)({m: torch.zeros(2, 6) for m in SIZES}),
        "found {'image': 6, 'text': 6}",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_said(case: str) -> None:
    call, said = WRONG[case]
    with pytest.raises(ParameterError) as caught:
        call()
    assert said in str(caught.value)
