"""Run a model over one batch and make of it what the pool stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmselect.core.scores.coalitions import coalition_names
from mmselect.errors import DataError, ParameterError, SchemaError
from mmselect.pool.schema import match, names_in
from mmselect.pool.values import bad_rows
from mmselect.pool.writing import check_arrays, to_numpy
from mmselect.torch.agreeing import agree
from mmselect.torch.batches import Inputs, Key, arguments, check_arguments, column, moved
from mmselect.torch.capture import Pick, Recorder, linear_parts, picked, submodule
from mmselect.torch.masking import located_call, rerun
from mmselect.torch.modes import dropping, seeded
from mmselect.torch.trees import Tensor, shown

FUSED = "/multimodal_logits"
ROUNDINGS = 16
"""Rounding errors, at the size of the sum's terms, by which a linear head may miss the logits."""

REPLAYED = 1e-3
"""How far a fusion that runs again may be from the logits, relative to the largest of them."""


@dataclass(frozen=True)
class Plan:
    """What an export runs and collects: the arguments of ``export_pool``, read and checked."""

    model: Any
    device: Any
    picks: Mapping[str, Pick]
    columns: Mapping[str, Key]
    function: Callable[[Any], Mapping[str, Any]] | None = None
    inputs: Inputs = None
    fusion: Pick | None = None
    classifier: str | None = None
    class_names: list[str] | None = None
    passes: int = 0
    seed: int = 0
    layers: list[Any] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    amp: Any = None
    dtype: Any = None


class Block(NamedTuple):
    """A batch on its way to the file: values on the CPU, or being copied there.

    `too_large` marks the rows whose numbers do not fit the type they are stored in; `copied` are
    the CUDA events after the copies, one for each device.
    """

    values: dict[str, Any]
    too_large: dict[str, Tensor]
    copied: list[Any]

    @property
    def rows(self) -> int:
        """Rows of the first dataset; the others are held against it later."""
        first = next(iter(self.values.values()))
        return len(first) if getattr(first, "ndim", 1) else 1


def compute(
    plan: Plan, recorder: Recorder, batch: Any, row: int, first: bool = False
) -> dict[str, Any]:
    """Run everything that is to run over a batch, and collect it under its names in the pool.

    `row` is that of the batch's first sample: random numbers follow from it. With `first`, what
    the user said of the model is held against what it does.
    """
    inputs = moved(batch, plan.device)

    def call() -> Any:
        if plan.function is not None:
            return plan.function(inputs)
        args, kwargs = arguments(inputs, plan.inputs, list(plan.columns.values()))
        if first:
            check_arguments(plan.model, args, kwargs)
        return plan.model(*args, **kwargs)

    with torch.no_grad(), _autocast(plan):
        found = _forward(plan, recorder, call, frozenset(plan.picks), watch=True)
        _check_numbers(found)
        if plan.fusion is not None:
            found |= _coalition_logits(plan, recorder, found, row, check=first)
        if plan.passes:
            found["/dropout_logits"] = _dropout_logits(plan, recorder, call, row)
    return found | {path: column(batch, path, key) for path, key in plan.columns.items()}


def _check_numbers(found: Mapping[str, Any]) -> None:
    """Refuse text and labels alone; a name that is not in the format is told of later."""
    places = [match(path) for path in found]
    if not any(place is None or place.dataset.kind == "float" for place in places):
        names = ", ".join(found) or "nothing"
        raise ParameterError(f"function: expected features or logits to export, found {names}")


def _autocast(plan: Plan) -> AbstractContextManager[Any]:
    return torch.autocast(plan.device.type, plan.amp) if plan.amp else nullcontext()


def _forward(
    plan: Plan,
    recorder: Recorder,
    call: Callable[[], Any],
    wanted: frozenset[str],
    watch: bool = False,
) -> dict[str, Any]:
    """Run the model once: what the hooks picked, in the user's order, and what `function` gave."""
    result = recorder.run(call, wanted, watch)
    found: dict[str, Any] = {p: recorder.found[p] for p in plan.picks if p in wanted}
    if plan.function is not None:
        if not isinstance(result, Mapping):
            message = "expected a mapping of names in the pool to arrays"
            raise ParameterError(f"function: {message}, found {shown(result)}")
        for name, values in result.items():
            path = f"/{name.removeprefix('/')}"
            found[path] = _tensor(plan, path, values)
    return found


def _tensor(plan: Plan, path: str, values: Any) -> Any:
    """Turn what is stored as floats into a tensor; leave the rest, and what is no number."""
    place = match(path)
    if isinstance(values, torch.Tensor) or place is None or place.dataset.kind != "float":
        return values
    array = to_numpy(values)
    return torch.as_tensor(array, device=plan.device) if array.dtype.kind in "fiu" else array


def _logits(plan: Plan, found: Mapping[str, Any]) -> Tensor:
    if FUSED not in found:
        name = "coalitions" if plan.fusion else "dropout_passes"
        raise ParameterError(f"{name}: expected multimodal logits from function=, found none")
    return found[FUSED]


def _coalition_logits(
    plan: Plan, recorder: Recorder, found: Mapping[str, Any], row: int, check: bool
) -> dict[str, Tensor]:
    """Run the fusion again for every coalition but the full one, whose logits are the model's."""
    assert plan.fusion is not None  # asked for only where there is one
    names = names_in("/features", found)
    traces = {
        name: [found[f"/features/{name}"], *recorder.outputs.get(f"/features/{name}", [])]
        for name in names
    }
    for name in names:  # nan is not equal to itself and would not be found below
        if (bad := ~found[f"/features/{name}"].isfinite().flatten(1).all(dim=1)).any():
            message, rows = "expected finite numbers, found nan or inf", bad.nonzero().flatten()
            raise DataError(message, dataset=f"/features/{name}", rows=rows.tolist())
    if not names:
        raise ParameterError("coalitions: expected features of modalities, found none")
    given, known = recorder.calls[0], recorder.constants
    call = located_call(plan.fusion.module, given, traces, known, first=row == 0)
    if known is None:
        recorder.constants = call.constants
    module = submodule(plan.model, plan.fusion.module)

    def logits(absent: frozenset[str]) -> Tensor:
        return picked(plan.fusion, rerun(module, call, absent))  # type: ignore[arg-type]

    full = _logits(plan, found)
    if check and not agree(to_numpy(full), to_numpy(logits(frozenset())), REPLAYED):
        message = "expected a submodule that returns the multimodal logits, found other numbers"
        raise ParameterError(f"coalitions: {plan.fusion}: {message}")
    coalitions = coalition_names(names)[:-1]
    return {
        f"/coalition_logits/{name}": logits(frozenset(names) - set(name.split("+")))
        for name in coalitions
    }


def _dropout_logits(plan: Plan, recorder: Recorder, call: Callable[[], Any], row: int) -> Tensor:
    wanted = frozenset({FUSED} & plan.picks.keys())
    with seeded(plan.sources, plan.seed, row), dropping(plan.layers) as ran:
        passes = [_logits(plan, _forward(plan, recorder, call, wanted)) for _ in range(plan.passes)]
    if not ran:
        message = "expected dropout layers that run in a forward pass, found none that did"
        raise ParameterError(f"dropout_passes: {message}")
    return torch.stack(passes, dim=1)


def constants(plan: Plan, found: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Take the linear head apart and hold it against the logits of a batch; and the class names.

    Raises
    ------
    ParameterError
        If Σ_m W_m z_m + b is not the logits; the message names the order of modalities that fits,
        where there is one.
    """
    out: dict[str, NDArray[Any]] = {}
    if plan.classifier is not None:
        order = [path.removeprefix("/features/") for path in found if path.startswith("/features/")]
        z = {name: found[f"/features/{name}"] for name in order}
        if not _reproduces(plan, order, z, found):
            raise ParameterError(f"classifier {plan.classifier}: {_order_problem(plan, z, found)}")
        widths = {name: z[name].shape[1] for name in order}
        weight, bias = linear_parts(plan.model, plan.classifier, widths)
        out = {f"/classifier/weight/{name}": to_numpy(block) for name, block in weight.items()}
        if bias is not None:
            out["/classifier/bias"] = to_numpy(bias)
    if plan.class_names is not None:
        out["/class_names"] = np.array(plan.class_names, dtype=object)
    return out


def _reproduces(
    plan: Plan, order: list[str], z: Mapping[str, Tensor], found: Mapping[str, Any]
) -> bool:
    """Whether the head, cut in this order, gives the logits up to the rounding of their type."""
    assert plan.classifier is not None  # asked for only where there is one
    widths = {name: z[name].shape[1] for name in order}
    weight, bias = linear_parts(plan.model, plan.classifier, widths)
    wide = {name: (z[name].double().cpu(), weight[name].double().cpu()) for name in order}
    b = torch.zeros(1).double() if bias is None else bias.double().cpu()
    logits = _logits(plan, found)
    f = sum((x @ w.T for x, w in wide.values()), b)
    size = sum((x.abs() @ w.abs().T for x, w in wide.values()), b.abs())
    if f.shape != logits.shape:
        return False
    kinds = {logits.dtype, plan.amp or logits.dtype, *(part.dtype for part in weight.values())}
    step = max(torch.finfo(kind).eps for kind in kinds)
    if plan.device.type == "cuda":
        step = max(step, 2.0**-10)  # it may round the factors of float32 products to ten bits
    return bool(((f - logits.double().cpu()).abs() <= ROUNDINGS * step * size).all())


def _order_problem(plan: Plan, z: Mapping[str, Tensor], found: Mapping[str, Any]) -> str:
    message = "expected W z + b to be the multimodal logits, found other numbers"
    for order in permutations(z) if len(z) <= 5 else ():
        if _reproduces(plan, list(order), z, found):
            return f"{message}; they fit in the order {', '.join(order)}: give features= in it"
    return (
        f"{message}, in any order of {', '.join(z)}: does something stand between the features "
        "and the classifier, or between the classifier and the logits? "
        "Then export coalitions= instead"
    )


def leaving(plan: Plan, found: Mapping[str, Any]) -> Block:
    """Give floats the type they are stored in, and start their way to the CPU.

    On CUDA, the copies go to pinned memory behind the kernels that make the numbers; nobody waits.
    """
    values, too_large, devices = {}, {}, set()
    for path, given in found.items():
        place = match(path)
        is_float = place is not None and place.dataset.kind == "float"
        if not is_float or not isinstance(given, torch.Tensor):
            values[path] = np.array(to_numpy(given))  # a loader may use its memory again
            continue
        kind = plan.dtype or (torch.float32 if given.dtype == torch.bfloat16 else given.dtype)
        stored, cuda = given.detach().to(kind), given.device.type == "cuda"
        devices |= {given.device} if cuda else set()
        if _narrows(given.dtype, kind) and given.ndim > 1:
            mask = (stored.isinf() & given.isfinite()).flatten(1).any(dim=1)
            too_large[path] = mask.to("cpu", non_blocking=cuda)
        if plan.device.type == "cuda" and stored.data_ptr() == given.data_ptr() and not cuda:
            stored = stored.clone()  # it waits for the next batch, whose loader may use it again
        values[path] = stored.to("cpu", non_blocking=cuda)  # pinned by PyTorch if it may go on
    return Block(values, too_large, [_reached(device) for device in devices])


def _narrows(old: Any, new: Any) -> bool:
    """Whether a number of one floating type may be too large for another."""
    return old.is_floating_point and torch.finfo(new).max < torch.finfo(old).max


def _reached(device: Any) -> Any:
    """Mark the place that a device's work has to reach until what was asked of it is done."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def arrived(block: Block, fixed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Turn a block into arrays and hold them against the format.

    Parameters
    ----------
    block : Block
    fixed : mapping of path to array
        The datasets without a row per sample.

    Raises
    ------
    SchemaError
        If a name, shape or type is not what the format says, or numbers of rows differ.
    DataError
        If a number cannot be used; `rows` counts within the batch.
    """
    for event in block.copied:
        event.synchronize()
    arrays = {path: as_array(path, values) for path, values in block.values.items()}
    _check_labels(arrays.get("/label"))
    check_arrays({**arrays, **fixed})
    for path, mask in block.too_large.items():
        if mask.any():
            message = f"expected numbers that fit {arrays[path].dtype}, found larger ones"
            rows = np.flatnonzero(mask.numpy()).tolist()
            raise DataError(f"{message}: store them in a wider dtype=", dataset=path, rows=rows)
    sizes = _sizes({**arrays, **fixed})
    for path, array in arrays.items():
        place = match(path)
        assert place is not None  # check_arrays refuses others
        for problem, bad in bad_rows(place, array, sizes).items():
            raise DataError(problem, dataset=path, rows=bad.tolist())
    return arrays


def _check_labels(labels: NDArray[Any] | None) -> None:
    if labels is not None and labels.ndim == 2:
        message = f"expected axes (n), found shape {labels.shape}"
        raise SchemaError(
            f"{message}: several labels per sample are not in the format", dataset="/label"
        )


def as_array(path: str, values: Any) -> NDArray[Any]:
    """Turn values into an array; text into Python's strings.

    Raises
    ------
    DataError
        For what cannot be stored as text; `rows` counts within the batch.
    """
    array = to_numpy(values)
    if array.dtype.kind not in "OSU" or not array.ndim:
        return array  # one text for all samples is told of later, as a shape that does not fit
    text = np.empty(len(array), object)
    for row, item in enumerate(array.tolist()):
        text[row] = item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item
        if not isinstance(item, str | bytes) or not _storable(text[row]):
            message = f"expected UTF-8 text without NUL, found {item!r}"
            raise DataError(message, dataset=path, rows=[row])
    return text


def _storable(text: str) -> bool:
    """Whether HDF5 can hold it: no NUL, and nothing that is not Unicode."""
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text


def _sizes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Classes, if any dataset tells how many."""
    for path, array in arrays.items():
        place = match(path)
        if place is not None and "c" in place.axes:
            return {"c": array.shape[place.axes.index("c")]}
    return {}
