"""What ``export_pool`` may be told, read and held against the model before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mmselect.core.scores.shapley import MOST_MODALITIES
from mmselect.errors import ParameterError
from mmselect.option import (
    Asked,
    Parser,
    anything,
    asking,
    flag,
    names,
    one_of,
    option,
    refuse,
    text,
    whole,
)
from mmselect.pool.schema import by_path, per_sample
from mmselect.torch.devices import usable_device
from mmselect.torch.export.batches import Inputs, Key
from mmselect.torch.export.modes import dropout_layers, generators
from mmselect.torch.export.outputs import Given, Pick, parse, qualname, submodule, unwrapped

FUSED = "/multimodal_logits"

MOST_PARTS = 10_000
"""So many that four digits in a shard's name tell them apart."""

LONGEST = 1000
"""Characters of a setting that stand in a shard as they are."""

DIGESTED = 4096
"""Bytes of each tensor of a model that a continuation holds against those of the export before."""


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refuse(name, "a mapping of names to where it is", value)
    return {str(key): each for key, each in value.items()}


def _outputs(name: str, value: Any) -> dict[str, Pick]:
    return {key: parse(each) for key, each in _mapping(name, value).items()}


def _torch_type(*accepted: str) -> Parser:
    word = one_of(*accepted)
    return lambda name, value: getattr(torch, word(name, str(value).removeprefix("torch.")))


def _part(name: str, value: Any) -> tuple[int, int]:
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(x, int) for x in value)
    if not (pair and 0 <= value[0] < value[1] <= MOST_PARTS):
        raise refuse(name, "which of how many, such as (0, 4)", value)
    return value


@asking
class Exporting(Asked):
    """What ``export_pool`` may be told; outputs are read as :class:`Pick` are."""

    features: Mapping[str, Given] | None = option(None, parse=_outputs)
    unimodal_logits: Mapping[str, Given] | None = option(None, parse=_outputs)
    multimodal_logits: Given | None = option("", parse=lambda _, x: None if x is None else parse(x))
    classifier: str | None = option(None, parse=text)
    coalitions: bool = option(False, parse=flag)
    dropout_passes: int = option(0, parse=whole(0))
    function: Callable[[Any], Mapping[str, Any]] | None = option(None, parse=anything)
    inputs: Inputs = option(None, parse=anything)
    ids: Key | None = option(None, parse=anything)
    labels: Key | None = option(None, parse=anything)
    labeled: Key | None = option(None, parse=anything)
    present: Mapping[str, Key] | None = option(None, parse=_mapping)
    metadata: Mapping[str, Key] | None = option(None, parse=_mapping)
    datasets: Mapping[str, Key] | None = option(None, parse=_mapping)
    class_names: Sequence[str] | None = option(None, parse=names)
    n: int | None = option(None, parse=whole(1))
    device: Any = option(None, parse=anything)
    amp: Any = option(None, parse=_torch_type("bfloat16", "float16"))
    dtype: Any = option(None, parse=_torch_type("float16", "float32", "float64"))
    seed: int = option(0, parse=whole(0))
    resume: bool = option(False, parse=flag)
    part: tuple[int, int] = option((0, 1), parse=_part)
    join: bool = option(True, parse=flag)
    progress: bool | Callable[[int, int | None], object] = option(True, parse=anything)


class Plan:
    """An export to be: the model without wrappers, and everything by its path in the pool.

    Attributes
    ----------
    ask : Exporting
    model, device : Module, device
    picks : dict of path to Pick
        What hooks look at.
    modules : dict of path to submodule
        Whose output a pick is taken from.
    columns : dict of path to key
        What a batch holds.
    layers, sources : list
        Dropout layers that passes switch on, and the random generators that the model draws from.

    Raises
    ------
    ParameterError
        If what was asked does not fit the model, or lacks something.
    """

    def __init__(self, model: Any, ask: Exporting) -> None:
        self.ask, self.model = ask, unwrapped(model)
        self.device = _device(self.model, ask.device)
        others = {f"/{path.removeprefix('/')}": key for path, key in (ask.datasets or {}).items()}
        given = by_path(vars(ask)) | others
        if ask.function is not None and given.get(FUSED) == parse(""):
            del given[FUSED]  # what the model returns is the function's to say
        self.picks = {path: each for path, each in given.items() if isinstance(each, Pick)}
        self.modules = {path: submodule(self.model, p.module) for path, p in self.picks.items()}
        self.columns = {p: x for p, x in given.items() if p not in self.picks and per_sample(p)}
        self.layers = dropout_layers(self.model) if ask.dropout_passes else []
        self.sources = generators(self.model, self.device)
        modalities = len(ask.features or ())
        if not self.picks and ask.function is None:
            raise ParameterError("expected features, logits or a function to export, found none")
        for path, module in self.modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                message = "expected a submodule that takes hooks, found a scripted one"
                hint = "export the model as it was before torch.jit.script, or use function="
                raise ParameterError(f"{self.picks[path].name}: {message}: {hint}")
        if ask.coalitions and not 1 <= modalities <= MOST_MODALITIES:
            message = f"expected features of 1 to {MOST_MODALITIES} modalities"
            raise ParameterError(f"coalitions: {message}, found {modalities}")
        if ask.part[1] > 1 and "/id" not in self.columns:
            raise ParameterError("part: expected ids= with it, found none")

    def settings(self) -> dict[str, str | None]:
        """List what must not change between an export and its continuation, or its parts.

        It is text that is the same in every process.
        """
        ask, named = self.ask, self.ask.classifier
        found: dict[str, Any] = {p: each.said for p, each in self.picks.items()} | self.columns
        kept = ("function", "inputs", "amp", "dtype", "coalitions", "class_names", "dropout_passes")
        found |= {name: getattr(ask, name) for name in kept}
        found |= {
            "classifier": named and f"{named} {digest(submodule(self.model, named))}",
            "model": digest(self.model, DIGESTED),
            "seed": ask.seed if ask.dropout_passes else None,
            "parts": ask.part[1],
        }
        return {name: _text(each) for name, each in found.items()}


def _device(model: Any, device: Any) -> Any:
    """Find where batches go, and see that the model is there."""
    there = [tensor.device for tensor in (*model.parameters(), *model.buffers())]
    if device is None:
        return there[0] if there else torch.device("cpu")
    wanted = usable_device(device)
    if there and wanted not in there:
        message = f"expected the model on {wanted}, found it on {there[0]}"
        raise ParameterError(f"device: {message}: move it with model.to(...)")
    return wanted


def _text(thing: Any) -> str | None:
    """Show a setting; of a long one, such as thousands of class names, a digest."""
    shown = thing if thing is None else qualname(thing) if callable(thing) else str(thing)
    if shown is None or len(shown) <= LONGEST:
        return shown
    return hashlib.sha256(shown.encode()).hexdigest()


def digest(model: Any, most: int | None = None) -> str:
    """Tell models apart: names, shapes, types and the first bytes of what a checkpoint holds.

    `most` bytes of each tensor are looked at, all of them if None: training changes every tensor
    everywhere, so that a few tell.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = digest(layer)
    >>> _ = torch.nn.init.ones_(layer.bias)
    >>> digest(layer) == before
    False
    """
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and not torch.nn.parameter.is_lazy(tensor):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            count = None if most is None else most // tensor.element_size()
            first = tensor.detach().reshape(-1)[:count].cpu().contiguous()
            found.update(first.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
