"""Coalition logits: the fusion alone runs again, with the features of absent modalities zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mmselect
from mmselect.core.scores.linear import LinearLogits
from mmselect.errors import MmselectError
from mmselect.pool.checking import check

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402
from torch_helper.export_models import FEATURES, TwoTower, data, loader  # noqa: E402
from torch_helper.test_export import read  # noqa: E402

from mmselect.torch import export_pool  # noqa: E402

OPTIONS: dict[str, Any] = {"features": FEATURES, "inputs": ["image", "text"]}
x = data()


def test_linear_fusion_equals_the_linear_shortcut(tmp_path: Path) -> None:
    model, path = TwoTower(), tmp_path / "pool.h5"
    export_pool(model, loader(), path, classifier="fusion.fc", coalitions="fusion", **OPTIONS)
    found = read(path)
    z = {m: found[f"/features/{m}"] for m in FEATURES}
    w = {m: found[f"/classifier/weight/{m}"] for m in FEATURES}
    for coalition in ("none", "image", "text"):
        masked = {m: z[m] * (m in coalition) for m in z}
        expected = LinearLogits(masked, w, found["/classifier/bias"])[0:22]
        np.testing.assert_allclose(found[f"/coalition_logits/{coalition}"], expected, atol=1e-5)
    assert "/coalition_logits/image+text" not in found


def count_runs(module: nn.Module) -> list[None]:
    runs: list[None] = []
    module.register_forward_hook(lambda *_: runs.append(None))
    return runs


def test_only_the_fusion_runs_again(tmp_path: Path) -> None:
    model = TwoTower(hidden=True)
    counts = {name: count_runs(getattr(model, name)) for name in ("image_encoder", "fusion")}
    export_pool(model, [x], tmp_path / "pool.h5", coalitions="fusion", **OPTIONS)
    # the model's own pass, one that checks the fusion on the first batch, and three coalitions
    assert {name: len(runs) for name, runs in counts.items()} == {"image_encoder": 1, "fusion": 5}


class Fused(nn.Module):
    """Three encoders; how their features go into the fusion is for `pack` to say."""

    def __init__(self, pack: Callable[..., Any], mix: Callable[..., Any], width: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(4, width)
        self.fusion, self.pack = Mix(mix, width), pack

    def forward(self, image: Any, text: Any) -> Any:
        args, kwargs = self.pack(self.a(image), self.b(text), self.c(text.relu()))
        return self.fusion(*args, **kwargs)


class Mix(nn.Module):
    def __init__(self, mix: Callable[..., Any], width: int) -> None:
        super().__init__()
        self.mix, self.out = mix, nn.Linear(10 + width, 4)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.out(torch.tanh(self.mix(*args, **kwargs)))


cat = torch.cat
WAYS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "separate": (lambda a, b, c: ((a, b, c), {}), lambda a, b, c: cat([a, b, c], 1)),
    "keywords": (lambda a, b, c: ((), {"c": c, "a": a, "b": b}), lambda a, b, c: cat([a, b, c], 1)),
    "list": (lambda a, b, c: (([c, a, b],), {}), lambda z: cat([z[1], z[2], z[0]], 1)),
    "mapping, one by name": (
        lambda a, b, c: (({"a": a, "c": c},), {"b": b, "scale": torch.tensor(1.0)}),
        lambda z, b, scale: cat([z["a"], b, z["c"]], 1) * scale,
    ),
    "concatenated": (
        lambda a, b, c: ((cat([c, a, b], 1),), {}),
        lambda z: cat([z[:, -10:], z[:, :-10]], 1),
    ),
    "two concatenated": (
        lambda a, b, c: ((cat([c, a], 1), b), {}),
        lambda z, b: cat([z[:, -5:], b, z[:, :-5]], 1),
    ),
    "stacked": (lambda a, b, c: ((torch.stack([a, b, c], 1),), {}), lambda z: z.flatten(1)),
    "stacked first": (
        lambda a, b, c: ((torch.stack([a, b, c]),), {}),
        lambda z: z.transpose(0, 1).flatten(1),
    ),
    "twice": (lambda a, b, c: ((a, b, c, a), {}), lambda a, b, c, d: cat([(a + d) / 2, b, c], 1)),
    "changed in place": (
        lambda a, b, c: ((a, b, c), {}),
        lambda a, b, c: cat([a.add_(0), b.mul_(1.5).div_(1.5), c.mul_(3).div_(3)], 1),
    ),
    "with a mask of integers": (
        lambda a, b, c: ((a, b, c, torch.ones(len(a), dtype=torch.long)), {}),
        lambda a, b, c, mask: cat([a, b, c], 1) * mask[:, None],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_features_are_found_wherever_they_go_in(tmp_path: Path, way: str) -> None:
    model = Fused(*WAYS[way], width=5 if "stacked" in way else 3)
    features = {"z": "a", "y": "b", "x": "c"}
    export_pool(
        model,
        loader(),
        tmp_path / "pool.h5",
        features=features,
        inputs=["image", "text"],
        coalitions="fusion",
    )
    found = read(tmp_path / "pool.h5")
    names = [path for path in found if path.startswith("/coalition_logits/")]
    assert len(names) == 7
    with torch.no_grad():
        z = {name: torch.from_numpy(found[f"/features/{name}"]) for name in features}
        for path in names:
            here = path.rpartition("/")[2].split("+")
            joined = cat([z[name] * (name in here) for name in features], 1)
            expected = model.fusion.out(torch.tanh(joined))
            np.testing.assert_allclose(found[path], expected, atol=1e-5)


class Attention(nn.Module):
    """Token sequences go into the fusion; the features are their means."""

    def __init__(self, join: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.words = nn.Linear(2, 8), nn.Linear(1, 8)
        self.fusion, self.join = CrossAttention(), join

    def forward(self, image: Any, text: Any) -> Any:
        v, t = self.vision(image.view(-1, 3, 2)), self.words(text[:, :, None])
        return self.fusion(cat([v, t], 1), None) if self.join else self.fusion(v, t)


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, v: Any, t: Any) -> Any:
        z = v if t is None else cat([v, t], 1)
        return Logits(self.out(self.attention(z, z, z)[0].mean(1)))


class Logits(tuple):
    def __new__(cls, logits: Any) -> Any:
        return super().__new__(cls, (logits, None))


@pytest.mark.parametrize("join", [False, True])
def test_token_sequences(tmp_path: Path, join: bool) -> None:
    model, path = Attention(join), tmp_path / "pool.h5"
    pooled = {"image": ("vision", mean), "text": ("words", mean)}
    options = {"multimodal_logits": ":0", "inputs": ["image", "text"], "features": pooled}
    export_pool(model, loader(), path, coalitions="fusion:0", **options)
    found = read(path)
    with torch.no_grad():
        v, t = model.vision(x["image"].view(-1, 3, 2)), model.words(x["text"][:, :, None])
        for name, args in {"none": (0, 0), "image": (1, 0), "text": (0, 1)}.items():
            expected = model.fusion(v * args[0], t * args[1])[0]
            np.testing.assert_allclose(found[f"/coalition_logits/{name}"], expected, atol=1e-5)


def mean(output: Any) -> Any:
    return output.mean(1)


class Masked(nn.Module):
    """Features of three sizes that are zero wherever the label says so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (Zero(nn.Linear(6, d)) for d in (3, 5, 3))
        self.fusion = nn.Sequential(nn.Linear(11, 4), nn.Tanh())

    def forward(self, image: Any, keep: Any) -> Any:
        parts = [self.b(image, keep[0]), self.c(image, keep[1]), self.a(image, keep[2])]
        return self.fusion(cat(parts, 1))


class Zero(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Any, keep: bool) -> Any:
        return self.layer(image) * keep


def test_features_that_are_zero(tmp_path: Path) -> None:
    """Which zeros are whose cannot be told, and need not be."""
    model, path = Masked(), tmp_path / "pool.h5"
    keeps = [(i & 1, i >> 1 & 1, i >> 2 & 1) for i in (7, 6, 5, 4, 3, 2, 1, 0)]
    batches = [(x["image"][:2], keep) for keep in keeps]
    features = {name: name for name in "abc"}
    export_pool(model, batches, path, features=features, coalitions="fusion")
    found = read_with_zeros(path)
    with torch.no_grad():
        z = {name: torch.from_numpy(found[f"/features/{name}"]) for name in features}
        for here in ("none", "a", "b", "c", "a+b", "a+c", "b+c"):
            joined = cat([z[name] * (name in here.split("+")) for name in "bca"], 1)
            expected = model.fusion(joined)
            np.testing.assert_allclose(found[f"/coalition_logits/{here}"], expected, atol=1e-6)


def read_with_zeros(path: Path) -> dict[str, Any]:
    assert check([path]).problems == []
    with mmselect.open_pool(path) as pool:
        return {name: column[:] for name, column in pool.columns.items()}


def test_coalitions_in_mixed_precision(tmp_path: Path) -> None:
    model = TwoTower(hidden=True)
    for name, amp in (("amp", "bfloat16"), ("plain", None)):
        export_pool(model, loader(), tmp_path / name, amp=amp, coalitions="fusion", **OPTIONS)
    a, b = (read(tmp_path / name) for name in ("amp", "plain"))
    for path in ("/coalition_logits/none", "/coalition_logits/image"):
        assert not np.array_equal(a[path], b[path])
        np.testing.assert_allclose(a[path], b[path], atol=0.03)


class Lost(nn.Module):
    def __init__(self, pack: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.pack, self.fusion = nn.Linear(6, 5), nn.Linear(4, 5), pack, Sum()

    def forward(self, image: Any, text: Any) -> Any:
        return self.fusion(*self.pack(self.a(image), self.b(text)))[:, :3]


class Sum(nn.Module):
    def forward(self, *args: Any) -> Any:
        return sum(args)


LOST = {
    "changed on the way": (
        lambda a, b: (a, b.relu()),
        r"features of a, b as arguments, found \(5,",
    ),
    "mixed before": (lambda a, b: (a + b,), r"found \(5, 5\) that is no modality's features"),
    "a product beside them": (lambda a, b: (a, b, a * b), r"found \(5, 5\) that is no modality's"),
    "one is missing": (lambda a, b: (a,), r"the features of b as arguments, found \(5, 5\)"),
    "the same": (lambda a, b: (a, b), "different features, found the same for a and b"),
    "more than the logits": (lambda a, b: (a, b), "returns the multimodal logits, found other"),
}


Pack = Callable[[nn.Module, Any, Any], tuple[Any, ...]]


class Beside(nn.Module):
    """Features of the same width; what else the fusion gets is for `pack` to say."""

    def __init__(self, pack: Pack) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.pack, self.fusion = nn.Linear(6, 5), nn.Linear(4, 5), pack, Gate()
        self.pos = nn.Parameter(torch.rand(1, 1, 5))
        self.register_buffer("table", torch.rand(9, 5))

    def forward(self, image: Any, text: Any) -> Any:
        a, b = self.a(image), self.b(text)
        return self.fusion(a, b, *self.pack(self, a, b))


class Gate(nn.Module):
    def forward(self, a: Any, b: Any, more: Any) -> Any:
        if not isinstance(more, torch.Tensor):
            return torch.tanh(a - b) * next(iter(vars(more).values())).sum()
        return torch.tanh(a - b) * more.sum()


def beside(tmp_path: Path, pack: Pack, batch_size: int) -> None:
    features = {"a": "a", "b": "b"}
    options = {"features": features, "inputs": ["image", "text"], "coalitions": "fusion"}
    batches = loader(batch_size=batch_size)  # 22 rows: of 5, the last has 2; of 7, it has 1
    export_pool(Beside(pack), batches, tmp_path / "pool.h5", **options)


CONSTANT: dict[str, tuple[Pack, int]] = {
    "a parameter, a last batch of 1 row": (lambda m, a, b: (m.pos,), 7),
    "a parameter as wide as the batch": (lambda m, a, b: (m.pos,), 5),
    "a part of a buffer": (lambda m, a, b: (m.table[: len(a)],), 5),
    "a number that is the same": (lambda m, a, b: (torch.full((3,), 2.0),), 7),
    "a submodule": (lambda m, a, b: (SimpleNamespace(weight=m.a.weight),), 5),
}


@pytest.mark.parametrize("case", CONSTANT)
def test_constants_beside_the_features(tmp_path: Path, case: str) -> None:
    beside(tmp_path, *CONSTANT[case])
    found = read(tmp_path / "pool.h5")
    assert not found["/coalition_logits/none"].any()
    assert found["/coalition_logits/a"].any()


PER_SAMPLE: dict[str, tuple[Pack, str]] = {
    "flattened": (lambda m, a, b: ((a * b).flatten(),), r"found \(25,\) .* a row per sample"),
    "a mean": (lambda m, a, b: ((a * b).mean(0)[:3],), r"found \(3,\).*other than in the first b"),
    "of all rows": (
        lambda m, a, b: ((a * b).sum(),),
        r"found \(\) .*other than in the first batch",
    ),
    "only later": (lambda m, a, b: (a if a[0, 0] == m.start else a * b,), r"other than in the fir"),
    "in an object": (
        lambda m, a, b: (SimpleNamespace(_extra=a * b),),
        "expected tensors, or tuples, lists and mappings of them.*found SimpleNamespace, whose",
    ),
}


@pytest.mark.parametrize("case", PER_SAMPLE)
def test_what_may_tell_of_an_absent_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    pack, message = PER_SAMPLE[case]
    start = Beside(pack).a(x["image"][:5])[0, 0].item()
    monkeypatch.setattr(Beside, "start", start, raising=False)
    with pytest.raises(MmselectError, match=message):
        beside(tmp_path, pack, 5)
    assert not (tmp_path / "pool.h5").exists()


@pytest.mark.parametrize("case", LOST)
def test_features_that_are_not_among_the_arguments(tmp_path: Path, case: str) -> None:
    pack, message = LOST[case]
    model = Lost(pack)
    features = {"a": "a", "b": "a" if case == "the same" else "b"}
    options = {"features": features, "inputs": ["image", "text"], "coalitions": "fusion"}
    with pytest.raises(MmselectError, match=message):
        export_pool(model, loader(), tmp_path / "pool.h5", **options)
    assert list(tmp_path.iterdir()) == []
