"""Coalition logits: the model runs again, and encoders answer from memory, or with zeros."""

from __future__ import annotations

import dataclasses
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
from torch_helper.export_models import FEATURES, Output, TwoTower, data, loader  # noqa: E402
from torch_helper.test_export import read  # noqa: E402

from mmselect.torch import export_pool  # noqa: E402

OPTIONS: dict[str, Any] = {"features": FEATURES, "inputs": ["image", "text"]}
x = data()


def test_linear_fusion_equals_the_linear_shortcut(tmp_path: Path) -> None:
    model, path = TwoTower(), tmp_path / "pool.h5"
    export_pool(model, loader(), path, classifier="fusion.fc", coalitions=True, **OPTIONS)
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


def test_encoders_run_once(tmp_path: Path) -> None:
    model = TwoTower(hidden=True)
    counts = {name: count_runs(getattr(model, name)) for name in ("image_encoder", "fusion")}
    export_pool(model, [x], tmp_path / "pool.h5", coalitions=True, **OPTIONS)
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
def test_features_are_zero_wherever_they_go_in(tmp_path: Path, way: str) -> None:
    model = Fused(*WAYS[way], width=5 if "stacked" in way else 3)
    features = {"z": "a", "y": "b", "x": "c"}
    export_pool(
        model,
        loader(),
        tmp_path / "pool.h5",
        features=features,
        inputs=["image", "text"],
        coalitions=True,
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
    export_pool(model, loader(), path, coalitions=True, **options)
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
    export_pool(model, batches, path, features=features, coalitions=True)
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
        export_pool(model, loader(), tmp_path / name, amp=amp, coalitions=True, **OPTIONS)
    a, b = (read(tmp_path / name) for name in ("amp", "plain"))
    for path in ("/coalition_logits/none", "/coalition_logits/image"):
        assert not np.array_equal(a[path], b[path])
        np.testing.assert_allclose(a[path], b[path], atol=0.03)


def coalitions(path: Path) -> dict[str, Any]:
    """Logits of each coalition, and of all."""
    found = read_with_zeros(path)
    group = "/coalition_logits/"
    named = {name.removeprefix(group): x for name, x in found.items() if name.startswith(group)}
    return named | {"all": found["/multimodal_logits"]}


Z = dict[str, Any]


class Inline(nn.Module):
    """A fusion that is no submodule: what the model does with its features is `mix`."""

    def __init__(self, mix: Callable[[nn.Module, Any, Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(10, 4)
        self.pos, self.mix = nn.Parameter(torch.rand(1, 5)), mix

    def forward(self, image: Any, text: Any) -> Any:
        return self.mix(self, self.a(image), self.b(text))


INLINE: dict[str, Callable[[Any, Any, Any], Any]] = {
    "tanh of all": lambda m, a, b: m.fc(torch.tanh(cat([a, b], 1))),
    "changed on the way": lambda m, a, b: m.fc(cat([a.relu(), b.relu()], 1)),
    "mixed": lambda m, a, b: (a + b).tanh(),
    "a product beside them": lambda m, a, b: m.fc(cat([a * b, a - b], 1)),
    "a mean over the batch": lambda m, a, b: (a - b).tanh() * (a * b).mean(0) + a,
    "attention": lambda m, a, b: (torch.stack([a, b], 1).softmax(1) * m.pos).sum(1),
    "a part of the logits": lambda m, a, b: (a + 2 * b)[:, :3],
    "in an object": lambda m, a, b: sum(vars(SimpleNamespace(x=a, y=a * b, z=b)).values()),
    "in place": lambda m, a, b: m.fc(cat([a.mul_(2), b.add_(1)], 1)),
    "normalised": lambda m, a, b: nn.functional.normalize(a, dim=1) @ m.pos.T + b,
}


@pytest.mark.parametrize("amp", [None, "bfloat16"])
@pytest.mark.parametrize("case", INLINE)
def test_fusions_inside_forward(tmp_path: Path, case: str, amp: str | None) -> None:
    model, path = Inline(INLINE[case]), tmp_path / "pool.h5"
    options = {"features": {"image": "a", "text": "b"}, "inputs": ["image", "text"]}
    export_pool(model, loader(), path, coalitions=True, amp=amp, **options)
    found = coalitions(path)
    assert sorted(found) == ["all", "image", "none", "text"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp is not None):
        for name in ("none", "image", "text"):
            for start in range(0, 22, 5):
                here = slice(start, start + 5)
                a, b = model.a(x["image"][here]), model.b(x["text"][here])
                expected = model.mix(model, a * (name == "image"), b * (name == "text"))
                assert np.allclose(found[name][here], expected.float(), atol=1e-5)


@dataclasses.dataclass
class Embeds:
    """As a model of two towers returns: features, and more that speaks of both."""

    image_embeds: Any
    text_embeds: Any
    closeness: Any
    names: tuple[str, ...] = ("image", "text")


class Both(nn.Module):
    def __init__(self, pack: Callable[..., Any]) -> None:
        super().__init__()
        self.image, self.text, self.pack = nn.Linear(6, 5), nn.Linear(4, 5), pack

    def forward(self, image: Any, text: Any) -> Any:
        z = cat([self.image(image), self.text(text)], 1)
        a, b = z.chunk(2, 1)  # views of one tensor
        return self.pack(a, b, (a * b).sum(1, keepdim=True).expand(-1, 4))


class Clip(nn.Module):
    """One submodule returns both modalities; the fusion may use what else it returns."""

    def __init__(self, pack: Callable[..., Any], used: Callable[..., Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clip, self.fc, self.used = Both(pack), nn.Linear(10, 4), used

    def forward(self, image: Any, text: Any) -> Any:
        out = self.clip(image, text)
        self.seen = out
        a, b = (out[0], out[1]) if isinstance(out, tuple) else (out.image_embeds, out.text_embeds)
        return self.fc(torch.tanh(cat([a, b], 1))) + (self.used(out) if self.used else 0)


PACKS: dict[str, tuple[Callable[..., Any], Z]] = {
    "data class": (Embeds, {"image": "clip:image_embeds", "text": "clip:text_embeds"}),
    "mapping": (
        lambda a, b, c: Output(image_embeds=a, text_embeds=b, closeness=c),
        {"image": "clip:image_embeds", "text": "clip:text_embeds"},
    ),
    "object": (
        lambda a, b, c: SimpleNamespace(image_embeds=a, text_embeds=b, more={"c": [c, a]}),
        {"image": "clip:image_embeds", "text": "clip:text_embeds"},
    ),
    "tuple": (lambda a, b, c: (a, b, c), {"image": "clip:0", "text": "clip:1"}),
    "by functions": (
        lambda a, b, c: (a, b, c),
        {"image": ("clip", lambda out: out[0]), "text": ("clip", lambda out: out[1])},
    ),
}


@pytest.mark.parametrize("case", PACKS)
def test_one_submodule_that_returns_both(tmp_path: Path, case: str) -> None:
    pack, features = PACKS[case]
    model, path = Clip(pack), tmp_path / "pool.h5"
    runs = count_runs(model.clip.image)
    options = {"features": features, "inputs": ["image", "text"]}
    export_pool(model, loader(), path, coalitions=True, **options)
    assert len(runs) == 5  # once for each batch
    found = coalitions(path)
    with torch.no_grad():
        a, b = model.clip.image(x["image"]), model.clip.text(x["text"])
        for name in ("none", "image", "text"):
            joined = cat([a * (name == "image"), b * (name == "text")], 1)
            assert np.allclose(found[name], model.fc(joined.tanh()), atol=1e-5)
    last = model.seen  # of the last coalition, text: what speaks of both is zero, too
    rest = {"data class": lambda: last.closeness, "mapping": lambda: last["closeness"]}
    rest |= {"object": lambda: last.more["c"][0]}
    assert not rest.get(case, lambda: last[2])().any()


def export_clip(tmp_path: Path, model: nn.Module, features: Z, **options: Any) -> None:
    options = {"features": features, "inputs": ["image", "text"], "coalitions": True} | options
    export_pool(model, loader(), tmp_path / "pool.h5", **options)


TOWERS = {"image": "clip:image_embeds", "text": "clip:text_embeds"}


class Nested(nn.Module):
    """One encoder stands within the other."""

    def __init__(self) -> None:
        super().__init__()
        self.clip, self.fc = Both(Embeds), nn.Linear(10, 4)

    def forward(self, image: Any, text: Any) -> Any:
        out = self.clip(image, text)
        return self.fc(cat([out.image_embeds, out.text_embeds], 1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.b = nn.Linear(6, 5), nn.Linear(4, 5)

    def forward(self, image: Any, text: Any) -> Any:
        return self.shared(image) + self.shared(-image) * self.b(text)


class Counting(nn.Module):
    """Other numbers at every run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.count = nn.Linear(6, 5), nn.Linear(4, 5), 0

    def forward(self, image: Any, text: Any) -> Any:
        self.count += 1
        return (self.a(image) + self.b(text)) * self.count


class Gradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), Graph()

    def forward(self, image: Any, text: Any) -> Any:
        return self.a(image) + self.b(text)


class Graph(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 5)

    def forward(self, text: Any) -> Any:
        with torch.enable_grad():
            return super().forward(text)


AB = {"image": "a", "text": "b"}
REFUSED: dict[str, tuple[Callable[[], nn.Module], Z, Z, str]] = {
    "no part of the logits": (
        lambda: Inline(lambda m, a, b: m.fc(cat([a, a], 1))),
        AB,
        {},
        "text: expected logits that change where b returns zeros, found the same: name the sub",
    ),
    "a head beside the way": (
        TwoTower,
        {"image": "image_head", "text": "text_encoder"},
        {},
        "image: expected logits that change where image_head returns zeros",
    ),
    "the same": (
        lambda: Inline(lambda m, a, b: a + b),
        {"image": "a", "text": "a"},
        {},
        "image: expected logits that change where a returns zeros, found the same",
    ),
    "another output goes in": (
        lambda: Clip(Embeds, lambda out: out.closeness),
        TOWERS,
        {},
        "the same logits where encoders answer from memory, found others: do they return them, do",
    ),
    "computed of both": (
        lambda: Clip(Embeds),
        {"image": "clip:image_embeds", "text": ("clip", lambda out: out.text_embeds * 2)},
        {},
        'clip returns several modalities: name the part of each modality as "clip:part"',
    ),
    "one within the other": (
        Nested,
        {"image": "clip:image_embeds", "text": "clip.text"},
        {},
        "/features/text: clip.text: expected one run .*, found 0: .* or it is in another one",
    ),
    "an encoder that runs twice": (
        Twice,
        {"image": "shared", "text": "b"},
        {},
        "shared: expected one run in a forward pass, found 2: say with function= which one counts",
    ),
    "other logits at every run": (
        Counting,
        AB,
        {},
        "do others of their outputs go in, is something random\\?",
    ),
    "features that are the logits": (
        lambda: Clip(Embeds),
        TOWERS,
        {"multimodal_logits": "clip:closeness"},
        "the same logits where encoders answer from memory, found others: do they return them, do",
    ),
    "a gradient": (Gradient, AB, {}, "coalitions: b: expected an output that can be copied, fou"),
    "a name": (
        TwoTower,
        FEATURES,
        {"coalitions": "fusion"},
        "coalitions: expected True or False, found .fusion.",
    ),
    "features of a function": (
        TwoTower,
        {"image": "image_encoder"},
        {
            "function": lambda b: {"features/text": b["text"], "multimodal_logits": b["image"]},
            "multimodal_logits": None,
        },
        "expected one run in a forward pass, found 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_coalitions_that_would_be_wrong(tmp_path: Path, case: str) -> None:
    make, features, options, message = REFUSED[case]
    with pytest.raises(MmselectError, match=message) as raised:
        export_clip(tmp_path, make(), features, **options)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_features_of_a_function_cannot_be_absent(tmp_path: Path) -> None:
    model = TwoTower()

    def function(batch: Any) -> Any:
        return {"features/more": x["image"][:5], "multimodal_logits": model(*batch)}

    batches, hooks = [(x["image"][:5], x["text"][:5])], {"features": FEATURES, "coalitions": True}
    with pytest.raises(MmselectError, match="/coalition_logits: expected every coalition, "):
        export_pool(model, batches, tmp_path / "pool.h5", function=function, **hooks)


def test_hooks_of_the_encoder_run_once(tmp_path: Path) -> None:
    """What they made of the output is what is remembered."""
    model, path = Inline(INLINE["tanh of all"]), tmp_path / "pool.h5"
    model.b.register_forward_pre_hook(lambda _module, args: (args[0] + 1,))
    model.b.register_forward_hook(lambda _module, _args, output: output * 3)
    export_clip(tmp_path, model, AB)
    found, z = coalitions(path), read(path)["/features/text"]
    with torch.no_grad():
        assert np.allclose(z, model.b(x["text"]), atol=1e-6)
        joined = cat([torch.zeros(22, 5), torch.from_numpy(z)], 1)
        assert np.allclose(found["text"], model.fc(joined.tanh()), atol=1e-5)


@pytest.mark.parametrize("fails", [0, 7])
def test_forward_is_put_back(tmp_path: Path, fails: int) -> None:
    """Also where the model fails while encoders answer from memory."""

    def mix(m: Any, a: Any, b: Any) -> Any:
        m.count = getattr(m, "count", 0) + 1
        if m.count == fails:
            raise ValueError("a broken fusion")
        return a - b

    model = Inline(mix).train()
    own = model.b.forward
    model.b.forward = lambda text: own(text) * 2  # as adapters do
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    if fails:
        with pytest.raises(ValueError, match="a broken fusion"):
            export_clip(tmp_path, model, AB)
    else:
        export_clip(tmp_path, model, AB)
    after = {name: dict(vars(module)) for name, module in model.named_modules()}
    for name in before:
        left = {key: value for key, value in after[name].items() if key != "count"}
        assert left.keys() == before[name].keys()
        assert all(left[key] is before[name][key] for key in left if key != "training")
        assert after[name]["training"] and not after[name]["_forward_hooks"]


def test_a_compiled_encoder_answers_from_memory(tmp_path: Path) -> None:
    model, plain = Inline(INLINE["tanh of all"]), Inline(INLINE["tanh of all"])
    model.a.compile(backend="eager")
    for name, each in (("a", model), ("b", plain)):
        (tmp_path / name).mkdir()
        export_clip(tmp_path / name, each, AB)
    a, b = (coalitions(tmp_path / name / "pool.h5") for name in "ab")
    assert all(np.allclose(a[name], b[name], atol=1e-6) for name in b)
