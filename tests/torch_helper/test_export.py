"""What export_pool writes is what the model computes, however the model and its batches look."""

from __future__ import annotations

import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmselect
from mmselect.pool.checking import check

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402
from torch_helper.export_models import (  # noqa: E402
    EXPORT,
    FEATURES,
    HEADS,
    IDS,
    Output,
    TwoTower,
    computed,
    data,
    loader,
)

from mmselect.torch import export_pool  # noqa: E402


def read(path: Path) -> dict[str, Any]:
    """Every dataset of a pool that is sound from end to end."""
    found = check([path])
    assert found.problems == [] and found.warnings == []
    with mmselect.open_pool(path) as pool:
        assert pool.unknown == []
        return {name: column[:] for name, column in pool.columns.items()} | pool.constants


def same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-6) -> None:
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, atol=tolerance, rtol=tolerance, err_msg=path)


def test_hooks(tmp_path: Path) -> None:
    model = TwoTower()
    export_pool(model, loader(), tmp_path / "pool.h5", **EXPORT)
    found = read(tmp_path / "pool.h5")
    same(found, computed(model))
    assert found["/id"].tolist() == [name.encode() for name in IDS]
    assert found["/label"].tolist() == [i % 4 for i in range(22)]
    assert found["/metadata/name"][3] == b"the s03"
    assert found["/class_names"].tolist() == [b"a", b"b", b"c", b"d"]
    weight = np.hstack([found[f"/classifier/weight/{m}"] for m in ("image", "text")])
    assert np.array_equal(weight, model.fusion.fc.weight.detach().numpy())
    assert found["/classifier/bias"].dtype == np.float32
    assert sorted(tmp_path.iterdir()) == [tmp_path / "pool.h5"]


def test_numbers_lie_in_a_row(tmp_path: Path) -> None:
    for name, options in (("known", {}), ("unknown", {"n": None})):
        batches = loader() if name == "known" else list(loader())
        export_pool(TwoTower(), batches, tmp_path / f"{name}.h5", **EXPORT, **options)
        with mmselect.open_pool(tmp_path / f"{name}.h5") as pool:
            assert all(
                c.plain for p, c in pool.columns.items() if p not in ("/id",) and "meta" not in p
            )
    assert (tmp_path / "known.h5").read_bytes() == (tmp_path / "unknown.h5").read_bytes()


def test_function(tmp_path: Path) -> None:
    model = TwoTower()

    def function(batch: dict[str, Any]) -> dict[str, Any]:
        z = model.image_encoder(batch["image"])
        return {
            "features/image": z,
            "/multimodal_logits": model(batch["image"], batch["text"]).double().numpy(),
            "/unimodal_logits/image": model.image_head(z).bfloat16(),
            "/label": batch["label"],
            "/metadata/half": (batch["label"] / 2).tolist(),
        }

    path = tmp_path / "pool.h5"
    export_pool(model, loader(), path, function=function, ids="id", dropout_passes=2)
    found, expected = read(path), computed(model)
    for name in ("/features/image", "/multimodal_logits"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    assert found["/multimodal_logits"].dtype == np.float64
    assert found["/unimodal_logits/image"].dtype == np.float32
    assert found["/dropout_logits"].shape == (22, 2, 4)
    assert found["/metadata/half"].tolist() == [(i % 4) / 2 for i in range(22)]


def test_function_and_hooks_together(tmp_path: Path) -> None:
    model = TwoTower()
    options = {"features": FEATURES, "classifier": "fusion.fc", "coalitions": True}
    export_pool(
        model,
        loader(),
        tmp_path / "pool.h5",
        function=lambda b: {"multimodal_logits": model(b["image"], b["text"])},
        **options,
    )
    export_pool(model, loader(), tmp_path / "hooks.h5", inputs=["image", "text"], **options)
    assert (tmp_path / "pool.h5").read_bytes() == (tmp_path / "hooks.h5").read_bytes()


Named = namedtuple("Named", ["image", "text", "label", "id"])
x = data()
BATCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mapping": (dict(x), {"ids": "id", "labels": "label"}),
    "mapping, inputs named": (dict(x), {"inputs": ["image", "text"], "ids": "id"}),
    "transformers' mapping": (
        Output(x),
        {"ids": "id", "labels": "label", "metadata": {"name": lambda b: b.id}},
    ),
    "tuple": ((x["image"], x["text"], x["label"], x["id"]), {"labels": 2, "ids": 3}),
    "list": ([x["label"], x["image"], x["text"]], {"labels": 0}),
    "named tuple": (Named(**x), {"labels": "label", "ids": 3}),
    "positions": ((x["text"], x["image"]), {"inputs": (1, 0)}),
    "function to a mapping": (
        ({"image": x["image"], "words": x["text"]}, x["label"]),
        {"inputs": lambda b: {"image": b[0]["image"], "text": b[0]["words"]}, "labels": 1},
    ),
    "function to a tuple": (
        torch.hstack([x["image"], x["text"]]),
        {"inputs": lambda b: (b[:, :6], b[:, 6:])},
    ),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_of_every_kind(tmp_path: Path, kind: str) -> None:
    model, (batch, options) = TwoTower(), BATCHES[kind]
    export_pool(model, [batch], tmp_path / "pool.h5", features=FEATURES, **options)
    found = read(tmp_path / "pool.h5")
    same(found, {p: a for p, a in computed(model).items() if "unimodal" not in p})
    if "labels" in options:
        assert found["/label"].tolist() == x["label"].tolist()
    assert ("/id" in found) == ("ids" in options)


class Rich(nn.Module):
    """Outputs as pretrained encoders have them: tuples, mappings, token sequences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.words, self.fc = nn.GRU(2, 3, batch_first=True), Words(), nn.Linear(7, 4)

    def forward(self, image: Any, text: Any) -> Any:
        tokens, _ = self.vision(image.view(len(image), 3, 2))
        pooled = self.words(text)["pooler_output"]
        return Output(logits=self.fc(torch.cat([tokens[:, -1], pooled], dim=1)), attentions=None)


class Words(nn.Module):
    def forward(self, text: Any) -> Any:
        return Output(last_hidden_state=text[:, None].repeat(1, 2, 1), pooler_output=text * 2)


def test_picking_from_outputs(tmp_path: Path) -> None:
    model = Rich()
    features = {
        "image": ("vision", lambda output: output[0][:, -1]),
        "text": "words:pooler_output",
        "first": ("words", lambda output: output.last_hidden_state[:, 0]),
        "third": ("vision", lambda output: output[1][0]),
    }
    export_pool(
        model,
        loader(),
        tmp_path / "pool.h5",
        features=features,
        multimodal_logits=":logits",
        inputs=["image", "text"],
    )
    found = read(tmp_path / "pool.h5")
    with torch.no_grad():
        assert np.allclose(found["/multimodal_logits"], model(x["image"], x["text"]).logits)
    assert np.array_equal(found["/features/text"], x["text"] * 2)
    assert np.array_equal(found["/features/first"], x["text"])
    assert np.array_equal(found["/features/third"], found["/features/image"])


def test_features_are_those_before_a_layer_that_works_in_place(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4))
    export_pool(model, [x["image"]], tmp_path / "pool.h5", features={"image": "0"})
    found = read(tmp_path / "pool.h5")["/features/image"]
    assert found.min() < 0
    assert np.allclose(found, model[0](x["image"]).detach(), atol=1e-6)


@pytest.mark.parametrize("name", ["image_encoder", "module.image_encoder"])
@pytest.mark.parametrize("wrapped", ["whole", "encoder"])
def test_data_parallel(tmp_path: Path, name: str, wrapped: str) -> None:
    plain, model = TwoTower(), TwoTower()
    if wrapped == "whole":
        model = nn.DataParallel(model)
    else:
        model.image_encoder = nn.DataParallel(model.image_encoder)
    options = EXPORT | {"features": {"image": name, "text": "text_encoder"}}
    export_pool(model, loader(), tmp_path / "pool.h5", **options)
    same(read(tmp_path / "pool.h5"), computed(plain))


def test_a_submodule_within_a_wrapped_one(tmp_path: Path) -> None:
    for name in ("image_encoder.0", "image_encoder.module.0"):
        model = TwoTower()
        model.image_encoder = nn.DataParallel(model.image_encoder)
        path = tmp_path / "pool.h5"
        export_pool(model, loader(), path, features={"image": name}, inputs=["image", "text"])
        found = read(path)["/features/image"]
        assert np.allclose(found, model.image_encoder.module[0](x["image"]).detach(), atol=1e-6)


def test_compiled_model(tmp_path: Path) -> None:
    model = torch.compile(TwoTower(), backend="eager")
    export_pool(model, loader(), tmp_path / "pool.h5", **EXPORT)
    same(read(tmp_path / "pool.h5"), computed(TwoTower()))


def test_mixed_precision(tmp_path: Path) -> None:
    model = TwoTower()
    export_pool(model, loader(batch_size=22), tmp_path / "pool.h5", amp="bfloat16", **EXPORT)
    found, exact = read(tmp_path / "pool.h5"), computed(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x["image"], x["text"])
    assert expected.dtype == torch.bfloat16 and found["/multimodal_logits"].dtype == np.float32
    assert np.array_equal(found["/multimodal_logits"], expected.float())
    assert not np.array_equal(found["/multimodal_logits"], exact["/multimodal_logits"])
    same(found, exact, tolerance=0.05)


@pytest.mark.parametrize("dtype", ["float16", "float64", torch.float16])
def test_the_type_that_floats_are_stored_in(tmp_path: Path, dtype: Any) -> None:
    model = TwoTower()
    export_pool(model, loader(), tmp_path / "pool.h5", dtype=dtype, **EXPORT)
    found, expected = read(tmp_path / "pool.h5"), computed(model)
    kind = np.dtype(str(dtype).removeprefix("torch."))
    for path, array in expected.items():
        assert found[path].dtype == kind
        assert np.array_equal(found[path], array.astype(kind)) or np.allclose(
            found[path], array, atol=1e-3
        )
    assert found["/dropout_logits"].dtype == kind
    assert found["/classifier/weight/image"].dtype == np.float32


def test_masked_classes_stay_masked(tmp_path: Path) -> None:
    mask = torch.tensor([0.0, -torch.inf, 0.0])
    options = {"function": lambda b: {"multimodal_logits": b[:, :3] + mask}, "dtype": "float16"}
    export_pool(nn.Identity(), [x["image"]], tmp_path / "pool.h5", **options)
    assert (read(tmp_path / "pool.h5")["/multimodal_logits"][:, 1] == -np.inf).all()


def test_no_logits_and_integer_ids(tmp_path: Path) -> None:
    batch = {"image": x["image"], "number": torch.arange(100, 122), "mask": x["label"] > 1}
    model = nn.Sequential(nn.Linear(6, 5))
    export_pool(
        model,
        [batch],
        tmp_path / "pool.h5",
        features={"image": "0"},
        multimodal_logits=None,
        inputs=lambda b: b["image"],
        ids="number",
        labeled="mask",
    )
    found = read(tmp_path / "pool.h5")
    assert sorted(found) == ["/features/image", "/id", "/labeled"]
    assert found["/id"].tolist() == list(range(100, 122))
    assert found["/labeled"].tolist() == (x["label"] > 1).tolist()


class Gaps(TwoTower):
    """Says nan of a text that is missing, and takes zeros for it."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = nn.Sequential(self.text_encoder)

    def forward(self, image: Any, text: Any) -> Any:
        z_image, z_text = self.image_encoder(image), self.text_encoder(text)
        self.image_head(z_image), self.text_head(z_text)
        return self.fusion(z_image, z_text.nan_to_num())


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_samples_that_lack_a_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    monkeypatch.setattr("mmselect.torch.export.shards.SHARD_BYTES", 1)
    has_text = (torch.arange(22) % 3 > 0) & (torch.arange(22) > 11)  # nobody, in the first shard
    batch = {**x, "has_text": has_text.to(torch.uint8)}
    batch["text"] = torch.where(has_text[:, None], x["text"], torch.nan)
    path, options = tmp_path / "pool.h5", {**EXPORT, "dropout_passes": 0, "dtype": dtype}
    batches = [{key: each[a:b] for key, each in batch.items()} for a, b in ((0, 12), (12, 22))]
    export_pool(Gaps(), batches, path, present={"text": "has_text"}, **options)
    found, expected = read(path), computed(TwoTower())
    there = has_text.numpy()
    assert found["/present/text"].tolist() == there.tolist()
    for name in ("/features/text", "/unimodal_logits/text", "/coalition_logits/text"):
        assert np.isfinite(found[name]).all() and not found[name][~there].any(), name
    assert np.allclose(found["/features/text"][there], expected["/features/text"][there], atol=1e-3)
    assert mmselect.select(path, "bmmal", 4).ids
    with pytest.raises(mmselect.MmselectError, match=r"/features/text: row.* found nan"):
        export_pool(Gaps(), batches, path, inputs=["image", "text"], **options)
    with pytest.raises(mmselect.MmselectError, match=r"/present/sound: expected a modality that"):
        export_pool(Gaps(), batches, path, present={"sound": "has_text"}, **options)
    with pytest.raises(mmselect.MmselectError, match="present: expected a mapping of names to"):
        export_pool(Gaps(), batches, path, present="has_text", **options)


def test_any_dataset_of_the_format_is_taken_from_a_batch(tmp_path: Path) -> None:
    shares = torch.full((22, 4), 0.25)
    batches, path = [{**x, "soft": shares}], tmp_path / "pool.h5"
    options = {"datasets": {"label_share": "soft"}, "inputs": ["image", "text"]}
    export_pool(TwoTower(), batches, path, **options)
    assert np.array_equal(read(path)["/label_share"], shares.numpy())
    with pytest.raises(mmselect.MmselectError, match="/label_shares: expected a name of"):
        export_pool(TwoTower(), batches, path, **options | {"datasets": {"label_shares": "soft"}})


def test_a_classifier_without_bias(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3, bias=False))
    export_pool(model, [x["image"]], tmp_path / "p.h5", features={"image": "0"}, classifier="1")
    found = read(tmp_path / "p.h5")
    assert "/classifier/bias" not in found
    assert np.array_equal(found["/classifier/weight/image"], model[1].weight.detach())


def test_the_pool_selects(tmp_path: Path) -> None:
    options = {key: value for key, value in EXPORT.items() if key != "classifier"}
    export_pool(TwoTower(hidden=True), loader(), tmp_path / "pool.h5", **options)
    assert len(mmselect.select(tmp_path / "pool.h5", "smem", 4).ids) == 4
    assert len(mmselect.score(tmp_path / "pool.h5", "contribution").ids) == 22
    assert (mmselect.score(tmp_path / "pool.h5", "bald").score > 0).all()


def test_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int | None]] = []
    options = {"features": FEATURES, "inputs": ["image", "text"]}
    told = {"progress": lambda *counts: seen.append(counts)}
    export_pool(TwoTower(), loader(batch_size=10), tmp_path / "a.h5", **told, **options)
    assert seen == [(10, 22), (20, 22), (22, 22)]
    export_pool(TwoTower(), loader(), tmp_path / "b.h5", **options)
    assert capsys.readouterr() == ("", "")  # no terminal here


def test_progress_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("mmselect.terminal.LOOK", 0.001)
    monkeypatch.setattr("mmselect.terminal.MOMENT", 0)
    model = TwoTower()
    model.register_forward_hook(lambda *_: time.sleep(0.05))
    options = {"features": FEATURES, "unimodal_logits": HEADS, "inputs": ["image", "text"]}
    for batches, counted in ((loader(), "10/22"), (list(loader()), "10/?")):
        export_pool(model, batches, tmp_path / "a.h5", **options)
        shown = capsys.readouterr().err
        assert "rows exported" in shown and counted in shown
    export_pool(TwoTower(), loader(), tmp_path / "a.h5", progress=False, **options)
    assert capsys.readouterr().err == ""


def test_probabilities_are_noticed_at_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Softmax(dim=1))
    with pytest.warns(
        UserWarning, match="/multimodal_logits: .* like probabilities; export logits"
    ):
        export_pool(model, [x["image"]], tmp_path / "pool.h5")


def test_a_model_in_half_precision(tmp_path: Path) -> None:
    model = TwoTower().bfloat16()
    batch = {key: x[key].bfloat16() for key in ("image", "text")}
    options = {"features": FEATURES, "classifier": "fusion.fc", "coalitions": True}
    export_pool(model, [batch], tmp_path / "pool.h5", **options)
    found = read(tmp_path / "pool.h5")
    assert found["/features/text"].dtype == found["/classifier/bias"].dtype == np.float32
    same(found, {p: a for p, a in computed(TwoTower()).items() if "uni" not in p}, tolerance=0.05)


def test_a_submodule_inside_a_fused_transformer_layer(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), layer, nn.Flatten())
    features = {"image": ("1.linear1", lambda output: output[:, 0])}
    export_pool(model, [x["image"]], tmp_path / "pool.h5", features=features)
    assert read(tmp_path / "pool.h5")["/features/image"].shape == (22, 8)


def test_a_loader_that_uses_its_memory_again(tmp_path: Path) -> None:
    def batches() -> Any:
        memory = torch.empty(5, 6)
        for start in range(0, 20, 5):
            memory[:] = x["image"][start : start + 5]
            yield memory

    options = {"function": lambda b: {"features/image": b, "metadata/first": b[:, 0]}}
    export_pool(nn.Identity(), batches(), tmp_path / "pool.h5", **options)
    found = read(tmp_path / "pool.h5")
    assert np.array_equal(found["/features/image"], x["image"][:20])
    assert np.array_equal(found["/metadata/first"], x["image"][:20, 0])
