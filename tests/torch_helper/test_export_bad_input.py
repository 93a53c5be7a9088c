"""What export_pool cannot use: one clear line, and nothing under the final name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmselect
from mmselect.errors import DataError, MmselectError, ParameterError, SchemaError

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on one processor
]

from torch import nn  # noqa: E402
from torch_helper.export_models import (  # noqa: E402
    FEATURES,
    Output,
    Samples,
    TwoTower,
    data,
    loader,
)

from mmselect.torch import export_pool  # noqa: E402

OPTIONS: dict[str, Any] = {"features": FEATURES, "ids": "id", "labels": "label"}
x = data()


class Odd(nn.Module):
    """A layer that returns what its function makes of the image."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.odd, self.fc = Returns(function), nn.Linear(6, 3)
        self.idle = nn.Linear(1, 1)

    def forward(self, image: Any) -> Any:
        self.odd(image)
        return self.fc(image)


class Returns(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Any) -> Any:
        return self.function(image)


ODD: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "a tuple": (
        lambda z: (z[:, None], z),
        "odd",
        r"odd: expected a tensor, found a tuple of 2: \(22, 1, 6\), \(22, 6\): say which part, "
        r'such as "odd:0" or \("odd", function\)$',
    ),
    "a mapping": (
        lambda z: Output(pooled=z, hidden=(z,)),
        "odd",
        r"found Output with pooled \(22, 6\), hidden a tuple of 1: \(22, 6\): .* \"odd:pooled\"",
    ),
    "no such key": (
        lambda z: Output(pooled=z),
        "odd:poled",
        r"odd: expected a part of Output with pooled \(22, 6\), found 'poled'$",
    ),
    "no such position": (lambda z: (z,), "odd:1", "expected a part of a tuple of 1: .*found '1'"),
    "a sequence": (
        lambda z: z[:, None].repeat(1, 4, 1),
        "odd",
        r'expected a row per sample, \(n, d\), found \(22, 4, 6\): reduce it with \("odd", lambda',
    ),
    "a data class": (
        lambda z: Parts(z, z),
        "odd",
        r'expected a tensor, found Parts with logits, pooled: say .*such as "odd:logits" or',
    ),
    "a number": (lambda z: z.mean(), "odd", r"found \(\)"),
    "nothing": (lambda z: None, "odd", "expected a tensor, found NoneType"),
    "no name": (lambda z: z, 3, r'expected "module", "module:part" or \("module", function\), fou'),
    "other rows": (
        lambda z: z[:20],
        "odd",
        r"p\.h5: /multimodal_logits: expected 22 rows, as in /features/a, found 20|"
        r"/multimodal_logits: expected 20 rows, as in /features/a, found 22",
    ),
    "integers": (lambda z: z.long(), "odd", "/features/a: expected floats .*found int64"),
    "never called": (
        lambda z: z,
        "idle",
        "idle: expected one run in .*, found 0: forward never calls it .or calls its .forward",
    ),
    "misspelled": (
        lambda z: z,
        "od",
        r"Odd \(odd, fc, idle\), found 'od'; did you mean 'odd'\?$",
    ),
    "far from any": (lambda z: z, "xyz", r"of Odd \(odd, fc, idle\), found 'xyz'$"),
}


@pytest.mark.parametrize("case", ODD)
def test_outputs(tmp_path: Path, case: str) -> None:
    function, pick, message = ODD[case]
    with pytest.raises(MmselectError, match=message) as raised:
        export_pool(Odd(function), [x["image"]], tmp_path / "p.h5", features={"a": pick})
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_names(tmp_path: Path) -> None:
    options = OPTIONS | {"features": {"image": "module.image_encodr"}}
    message = r"TwoTower \(.*\), found 'module.image_encodr'; did you mean 'image_encoder'\?$"
    with pytest.raises(ParameterError, match=message):
        export_pool(nn.DataParallel(TwoTower()), loader(), tmp_path / "pool.h5", **options)


def test_a_module_that_runs_twice(tmp_path: Path) -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(6, 5)

        def forward(self, image: Any) -> Any:
            return self.shared(image) - self.shared(-image)

    with pytest.raises(ParameterError, match=r"shared: expected one run in .*, found 2: say"):
        export_pool(Siamese(), [x["image"]], tmp_path / "p.h5", features={"a": "shared"})


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_take_no_hooks(tmp_path: Path) -> None:
    model = torch.jit.script(nn.Linear(6, 3))
    with pytest.raises(
        ParameterError, match=r"the model: .* takes hooks, found a scripted one: export"
    ):
        export_pool(model, [x["image"]], tmp_path / "pool.h5")
    path = tmp_path / "pool.h5"
    export_pool(model, [x["image"]], path, function=lambda b: {"multimodal_logits": model(b)})
    assert path.exists()


class Broken(TwoTower):
    """Returns something that cannot be used, in some rows of a batch."""

    def __init__(self, where: str, value: float, rows: list[int], batch: int = 2) -> None:
        super().__init__()
        self.where, self.value, self.rows, self.batch, self.count = where, value, rows, batch, 0
        getattr(self, where).register_forward_hook(self.spoil)

    def spoil(self, _module: Any, _args: Any, output: Any) -> Any:
        self.count += 1
        if self.count == self.batch + 1:
            output[self.rows, 1] = self.value
        return output


BROKEN = {
    "nan feature": (
        "text_encoder",
        torch.nan,
        {},
        r"/features/text: rows 11, 13: expected finite numbers, found nan \(id s11, s13\)",
    ),
    "inf feature": ("image_encoder", torch.inf, {}, r"/features/image: .*found inf \(id s11, s13"),
    "nan with coalitions": (
        "text_encoder",
        torch.nan,
        {"coalitions": True},
        r"/features/text: rows 11, 13: expected finite .*found nan \(id s11, s13\)",
    ),
    "nan logits": ("fusion", torch.nan, {}, r"/multimodal_logits: .*found nan \(id s11, s13\)"),
    "inf logits": ("fusion", torch.inf, {}, "/multimodal_logits: .*finite logits, found .inf"),
    "beyond float16": (
        "fusion",
        1e5,
        {"dtype": "float16"},
        r"/multimodal_logits: rows 11, 13: expected numbers that fit float16, found 100000 "
        r"\(id s11, s13\)",
    ),
    "below float16": ("fusion", -1e5, {"dtype": "float16"}, "expected numbers that fit float16"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_numbers_name_rows_and_ids(tmp_path: Path, case: str) -> None:
    where, value, options, message = BROKEN[case]
    model = Broken(where, value, [1, 3])
    with pytest.raises(DataError, match=message) as raised:
        export_pool(model, loader(), tmp_path / "pool.h5", **{**OPTIONS, **options})
    assert str(raised.value).startswith(f"{tmp_path / 'pool.h5'}: ")
    assert not (tmp_path / "pool.h5").exists()


def test_nan_in_the_first_batch_comes_before_what_follows_from_it(tmp_path: Path) -> None:
    model = Broken("image_encoder", torch.nan, [1], batch=0)
    with pytest.raises(DataError, match=r"/features/image: row 1: .*found nan \(id s01\)"):
        export_pool(model, loader(), tmp_path / "pool.h5", classifier="fusion.fc", **OPTIONS)


def changed(key: str, batch: int, value: Any) -> Iterator[Any]:
    for index, one in enumerate(loader()):
        if index == batch:
            one[key] = value(one[key])
        yield one


COLUMNS: dict[str, tuple[Callable[[], Iterable[Any]], dict[str, Any], str]] = {
    "repeated id": (
        lambda: changed("id", 2, lambda ids: [*ids[:3], "s01", ids[4]]),
        {},
        r"/id: row 13: expected unique ids, found 's01' again$",
    ),
    "repeated in a batch": (
        lambda: changed("id", 2, lambda ids: [*ids[:4], ids[0]]),
        {},
        "/id: row 14: expected unique ids, found 's10' again",
    ),
    "repeated number": (
        lambda: loader(),
        {"ids": "label"},
        "/id: row 4: expected unique ids, found 0 again|found '0' again",
    ),
    "empty id": (
        lambda: changed("id", 1, lambda ids: ["", *ids[1:]]),
        {},
        "/id: row 5: .*found ''",
    ),
    "None": (
        lambda: changed("id", 1, lambda ids: [None, *ids[1:]]),
        {},
        "/id: row 5: expected printable UTF-8 text of one line, not empty, found ''",
    ),
    "NUL": (
        lambda: changed("id", 1, lambda ids: ["a\0b", *ids[1:]]),
        {},
        "/id: row 5: expected text without NUL",
    ),
    "fewer ids": (lambda: changed("id", 1, lambda ids: ids[1:]), {}, "expected 5 rows, .*found 4"),
    "a class too high": (
        lambda: changed("label", 1, lambda labels: labels + 2),
        {},
        r"/label: rows 6, 7: expected -1 .* or a class from 0 to 3, found another number \(id s0",
    ),
    "labels as floats": (
        lambda: loader(),
        {"labels": lambda b: b["label"].float()},
        "/label: expected integer, found float32",
    ),
    "one label that is unknown": (
        lambda: changed("label", 1, lambda labels: labels * 0 - 100),
        {},
        r"/label: rows 5, .* from 0 to 3, found another number \(id s05",
    ),
    "several labels": (
        lambda: loader(),
        {"labels": lambda b: b["image"] > 0},
        r"/label: expected axes \(n\), found shape \(5, 6\)",
    ),
    "labels one-hot": (
        lambda: loader(),
        {"labels": lambda b: nn.functional.one_hot(b["label"])},
        r"/label: expected axes \(n\), found shape \(5, ",
    ),
    "no such key": (
        lambda: loader(),
        {"labels": "lable"},
        r"/label: expected a part of dict with image \(5, 6\).*, found 'lable'",
    ),
    "a bad column name": (
        lambda: loader(),
        {"metadata": {"what ever": "id"}},
        "/metadata/what ever: expected a name of",
    ),
    "another type later": (
        lambda: changed("label", 1, lambda labels: labels.int()),
        {},
        "/label: expected int64, as in the first rows, found int32",
    ),
    "text later": (
        lambda: changed("label", 1, lambda labels: list("abcde")),
        {"labels": None, "metadata": {"m": "label"}},
        "/metadata/m: expected int64, as in the first rows, found text",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns(tmp_path: Path, case: str) -> None:
    batches, options, message = COLUMNS[case]
    everything = {**OPTIONS, "inputs": ["image", "text"], **options}
    with pytest.raises(MmselectError, match=message):
        export_pool(TwoTower(), batches(), tmp_path / "pool.h5", **everything)
    assert not (tmp_path / "pool.h5").exists()


def test_features_of_another_size_later(tmp_path: Path) -> None:
    batches = [{"x": x["image"]}, {"x": x["text"]}]
    message = r"/features/a: expected 6 dimensions .*, as in the first rows, found 4"
    with pytest.raises(SchemaError, match=message):
        export_pool(
            nn.Identity(), batches, tmp_path / "p.h5", function=lambda b: {"features/a": b["x"]}
        )


COMES = "the datasets of the first rows, found an additional one"
GOES = "the datasets of the first rows, found none"


@pytest.mark.parametrize(("first", "then", "found"), [("ab", "a", GOES), ("a", "ab", COMES)])
def test_a_dataset_that_comes_or_goes(tmp_path: Path, first: str, then: str, found: str) -> None:
    batches = [dict.fromkeys(names, x["image"]) for names in (first, then)]
    message = f"/features/b: expected {found}"
    with pytest.raises(SchemaError, match=message):
        export_pool(
            nn.Identity(),
            batches,
            tmp_path / "p.h5",
            function=lambda b: {f"features/{name}": array for name, array in b.items()},
        )


ROWS = {
    "fewer": (loader, {"n": 30}, "expected 30 rows from the loader, found 22: give n= if that is"),
    "more": (loader, {"n": 21}, "expected 21 rows from the loader, found more"),
    "tail dropped": (lambda: loader(drop_last=True), {}, "expected 22 .*, found 20: .*drop_last"),
    "none": (list, {}, "expected 1 rows from the loader, found 0$"),
    "an empty loader": (
        lambda: loader(n=22),
        {"n": 0},
        "n: expected a whole number of at least 1, found 0",
    ),
    "shuffled, no ids": (
        lambda: loader(shuffle=True),
        {"ids": None},
        "in order, once, where there are no ids, found rows in the order of a RandomSampler: give",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_numbers_of_rows(tmp_path: Path, case: str) -> None:
    batches, options, message = ROWS[case]
    with pytest.raises(MmselectError, match=message):
        export_pool(TwoTower(), batches(), tmp_path / "pool.h5", **{**OPTIONS, **options})
    assert not (tmp_path / "pool.h5").exists()


data_tools = torch.utils.data
OUT_OF_ORDER: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "random batches": (
        lambda d: {"batch_sampler": data_tools.BatchSampler(data_tools.RandomSampler(d), 5, False)},
        "RandomSampler",
    ),
    "random batches as samples": (
        lambda d: {
            "sampler": data_tools.BatchSampler(data_tools.SubsetRandomSampler(range(22)), 5, False),
            "batch_size": None,
        },
        "SubsetRandomSampler",
    ),
    "weighted": (
        lambda d: {"sampler": data_tools.WeightedRandomSampler([1.0] * 22, 22)},
        "WeightedRandomSampler",
    ),
    "a shard": (
        lambda d: {"sampler": data_tools.DistributedSampler(d, 2, 0, shuffle=False)},
        "DistributedSampler",
    ),
    "a list": (lambda d: {"sampler": [3, 1, 2]}, "in the order of a list"),
    "a list of batches": (lambda d: {"batch_sampler": [[3, 1], [2]]}, "in the order of a list"),
    "workers that do not wait": (lambda d: {"num_workers": 2, "in_order": False}, "in_order=F"),
}


@pytest.mark.parametrize("case", OUT_OF_ORDER)
def test_loaders_without_ids_that_may_not_be_in_order(tmp_path: Path, case: str) -> None:
    options, found = OUT_OF_ORDER[case]
    batches = data_tools.DataLoader(Samples(), **options(Samples()))
    message = f"loader: expected one that goes through the rows in order, once.*{found}.*: give ids"
    with pytest.raises(ParameterError, match=message):
        export_pool(TwoTower(), batches, tmp_path / "pool.h5", **OPTIONS | {"ids": None})
    assert list(tmp_path.iterdir()) == []


class Stream(data_tools.IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        samples = Samples(keys=("image", "text"))
        return (samples[row] for row in range(22))


def test_an_iterable_data_set_with_several_workers_repeats_rows(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    batches = data_tools.DataLoader(Stream(), 5, num_workers=2)
    with pytest.raises(ParameterError, match="found an iterable data set with 2 workers: give id"):
        export_pool(TwoTower(), batches, path, features=FEATURES)
    export_pool(TwoTower(), data_tools.DataLoader(Stream(), 5), path, features=FEATURES)
    with mmselect.open_pool(path) as pool:
        assert pool.n == 22 and "/id" not in pool.columns


def test_loaders_that_are_in_order(tmp_path: Path) -> None:
    samples = data_tools.Subset(Samples(keys=("image", "text")), range(10, 22))
    in_order = data_tools.SequentialSampler(samples)
    for options in (
        {"batch_size": 5},
        {"batch_sampler": data_tools.BatchSampler(in_order, 5, drop_last=False)},
        {"batch_size": 12, "sampler": in_order},
    ):
        batches = data_tools.DataLoader(samples, **options)
        export_pool(TwoTower(), batches, tmp_path / "pool.h5", features=FEATURES)
        with mmselect.open_pool(tmp_path / "pool.h5") as pool:
            assert pool.n == 12


def test_a_shuffled_loader_with_ids(tmp_path: Path) -> None:
    export_pool(TwoTower(), loader(shuffle=True), tmp_path / "pool.h5", **OPTIONS)
    assert (tmp_path / "pool.h5").exists()


def test_fewer_rows_can_be_taken_as_all(tmp_path: Path) -> None:
    """The computed rows are kept: a second call that knows better only computes the last batch."""
    path = tmp_path / "pool.h5"
    with pytest.raises(SchemaError, match="found 20"):
        export_pool(TwoTower(), loader(drop_last=True), path, **OPTIONS)
    export_pool(TwoTower(), loader(drop_last=True), path, n=20, resume=True, **OPTIONS)
    export_pool(TwoTower(), loader(drop_last=True), tmp_path / "b.h5", n=20, **OPTIONS)
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


class Late(TwoTower):
    """Between the fusion's classifier and the logits, or before it, stands something more."""

    def __init__(self, late: Callable[[Any], Any]) -> None:
        super().__init__()
        self.late = late

    def forward(self, image: Any, text: Any) -> Any:
        return self.late(super().forward(image, text))


TURNED = {"text": "text_encoder", "image": "image_encoder"}
ORDER = r"classifier fusion\.fc: expected W z \+ b to be .* fit in the order image, text: give feat"
STANDS = r"classifier .*found other numbers, in any order of image, text: does something stand betw"
CLASSIFIERS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "another order": (TwoTower, {"features": TURNED}, ORDER),
    "temperature": (lambda: Late(lambda f: f / 1.01), {}, STANDS),
    "softmax": (lambda: Late(lambda f: f.log_softmax(1)), {}, STANDS),
    "a bias of its own": (lambda: Late(lambda f: f + 0.01), {}, STANDS),
    "hidden layer": (
        lambda: TwoTower(hidden=True),
        {},
        r"fusion\.fc: expected 8 columns \(image 5 \+ text 3\), found 9",
    ),
    "one modality less": (
        TwoTower,
        {"features": {"image": "image_encoder"}},
        r"expected 5 columns \(image 5\), found 8",
    ),
    "no linear layer": (
        TwoTower,
        {"classifier": "fusion.drop"},
        "classifier fusion.drop: .*Dropout",
    ),
    "batch norm": (
        TwoTower,
        {"classifier": "image_encoder.1"},
        r"expected a linear layer with a \(c, Σd\) weight, found \(5,\)",
    ),
    "another head": (TwoTower, {"classifier": "image_head"}, "expected 8 columns .*found 5"),
    "no such layer": (
        TwoTower,
        {"classifier": "fusion.fcc"},
        "cc'; did you mean 'fusion.fc'",
    ),
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifiers_that_are_not_the_fused_head(tmp_path: Path, case: str) -> None:
    make, options, message = CLASSIFIERS[case]
    with pytest.raises(MmselectError, match=message):
        everything = {**OPTIONS, "classifier": "fusion.fc", **options}
        export_pool(make(), loader(), tmp_path / "pool.h5", **everything)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("amp", [None, "bfloat16"])
def test_the_order_is_told_apart_in_wide_layers_too(tmp_path: Path, amp: str | None) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.fc = nn.Linear(6, 700), nn.Linear(6, 700), nn.Linear(1400, 50)

        def forward(self, image: Any) -> Any:
            return self.fc(torch.cat([self.a(image), self.b(image)], 1))

    def export(order: str) -> None:
        features = {name: name for name in order}
        options = {"features": features, "classifier": "fc", "amp": amp}
        export_pool(Wide(), [x["image"]], tmp_path / "pool.h5", **options)

    export("ab")
    with pytest.raises(ParameterError, match="fit in the order a, b"):
        export("ba")


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"features": None, "multimodal_logits": None}, "expected features, logits or"),
    "device": ({"device": "meta"}, "device: expected a device that torch can use here, found 'm"),
    "no such device": ({"device": "gpu"}, "device: expected a device that torch can use .*'gpu'"),
    "seed": ({"seed": -1}, "seed: expected a whole number of at least 0, found -1"),
    "half a pass": ({"dropout_passes": 2.5}, "dropout_passes: expected a whole .*, found 2.5"),
    "n as text": ({"n": "ten"}, "n: expected a whole number of at least 1, found 'ten'"),
    "features as text": ({"features": "v"}, "features: expected a mapping of names to"),
    "heads as a list": ({"unimodal_logits": ["v"]}, "unimodal_logits: expected a mapping of names"),
    "metadata as a list": ({"metadata": ["id"]}, "metadata: expected a mapping of names to where"),
    "one id for all": (
        {"ids": lambda b: "s", "inputs": ["image", "text"]},
        r"/id: expected axes \(n\), found shape \(\)",
    ),
    "only text": (
        {"function": lambda b: {"metadata/m": b["id"]}},
        "function: expected features or logits to export, found /metadata/m$",
    ),
    "an empty mapping": ({"function": lambda b: {}}, "features or logits to export, found nothing"),
    "amp": ({"amp": "float8"}, "amp: expected bfloat16 or float16, found 'float8'"),
    "dtype": ({"dtype": "bfloat16"}, "dtype: expected one of float16, float32, float64, found"),
    "function": ({"function": lambda b: b["image"]}, r"function: expected a mapping .*\(5, 6\)"),
    "unknown name": (
        {"function": lambda b: {"feature/a": b["image"]}},
        "/feature/a: expected a name of",
    ),
    "a number": ({"function": lambda b: {"features/a": 3.0}}, r"/features/a: expected axes \(n, d"),
    "no logits": (
        {"function": lambda b: {"features/a": b["image"]}, "dropout_passes": 2},
        "dropout_passes: expected multimodal_logits with it, found none",
    ),
    "coalitions of nothing": (
        {"multimodal_logits": None, "coalitions": True},
        "coalitions: expected multimodal_logits with it, found none",
    ),
    "no modalities": (
        {"features": None, "coalitions": True},
        "coalitions: expected features of 1 to 12 modalities, found 0",
    ),
    "some coalitions": (
        {
            "function": lambda b: {
                f"{group}/a": b["image"] for group in ("features", "coalition_logits")
            }
        },
        "/coalition_logits: expected every coalition, found none for none",
    ),
    "classes": (
        {"class_names": ["a", "b"]},
        r"/class_names: expected 4 classes, as in /multimodal_logits, found 2",
    ),
    "inputs": (
        {"labels": None},
        r"inputs: expected what forward\(image, text\) takes, found dict with image \(5, 6\), "
        r"text \(5, 4\), label \(5,\) \(got an unexpected keyword argument 'label'\)",
    ),
    "no such input": ({"inputs": ["image", "txt"]}, "inputs: expected a part of dict .*'txt'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(tmp_path: Path, case: str) -> None:
    options, message = ARGUMENTS[case]
    hooks = {} if "function" in options else {"features": FEATURES}
    everything = {"ids": "id", "labels": "label", **hooks, **options}
    with pytest.raises(MmselectError, match=message):
        export_pool(TwoTower(), loader(), tmp_path / "pool.h5", **everything)
    assert list(tmp_path.iterdir()) == []


class Parts:
    def __init__(self, logits: Any, pooled: Any) -> None:
        self.logits, self.pooled, self._cache = logits, pooled, 1


@pytest.mark.parametrize("model", [None, lambda batch: batch])
def test_models_that_are_none(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ParameterError, match=r"model: expected a torch.nn.Module, found \w+$"):
        export_pool(model, loader(), tmp_path / "p.h5", function=lambda b: {"features/a": b["id"]})


def test_a_model_elsewhere(tmp_path: Path) -> None:
    message = "device: expected the model on cpu, found it on meta: move it"
    with pytest.raises(ParameterError, match=message):
        export_pool(TwoTower().to("meta"), loader(), tmp_path / "p.h5", device="cpu", **OPTIONS)


@pytest.mark.parametrize("before", [0, 1])
def test_an_empty_batch(tmp_path: Path, before: int) -> None:
    batches = [x["image"][:5]] * before + [x["image"][:0]]
    with pytest.raises(SchemaError, match="samples in every batch, found an empty one: leave it"):
        export_pool(nn.Linear(6, 3), batches, tmp_path / "pool.h5")
    assert not (tmp_path / "pool.h5").exists()


def test_ids_that_are_too_few_hide_no_error(tmp_path: Path) -> None:
    model = Broken("image_encoder", torch.nan, [4], batch=0)
    batches = changed("id", 0, lambda ids: ids[:2])
    with pytest.raises(SchemaError, match="/id: expected 5 rows, as in /features/image, found 2"):
        export_pool(model, batches, tmp_path / "pool.h5", coalitions=True, **OPTIONS)


def test_targets(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "no" / "pool.h5", "folder .* does not exist"),
        (tmp_path, "expected a file to write, found a folder"),
        (Path("/dev/null"), "expected a file to write, found something else"),
    ):
        with pytest.raises(MmselectError, match=message):
            export_pool(TwoTower(), loader(), path, **OPTIONS)


def test_samples_without_labels(tmp_path: Path) -> None:
    batches = torch.utils.data.DataLoader(Samples(keys=("image", "text")), 5)
    export_pool(TwoTower(), batches, tmp_path / "pool.h5", features=FEATURES)
    assert (tmp_path / "pool.h5").exists()
