"""Run a fusion again with some modalities absent: their features are zero wherever they go in.

The features are recognised by value among the tensors that the fusion was called with: alone, in
tuples, lists or mappings, and side by side in one tensor (concatenated or stacked along any axis).
A tensor that the fusion gets counts as a modality's if it equals the exported features, or any
tensor that the features' submodule returned, so that token sequences are recognised where the
exported features are only their mean.

Any other tensor of floats could tell what an absent modality says. It has to be a constant: a
parameter or buffer of the model, or the same in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mmselect.errors import ParameterError
from mmselect.torch.trees import Tensor, leaves, mapped, parts, shown, tensors


class Span(NamedTuple):
    """Where in a tensor one modality's features stand: `width` places along `axis`."""

    modality: str
    axis: int
    start: int
    width: int


class Heard(NamedTuple):
    """What a fusion was called with.

    `arguments` is a copy of (args, kwargs); `own` says of each tensor in it whether it is a
    parameter or buffer of the model, or a part of one; `opaque` shows an argument that hides a
    tensor of floats, if there is one.
    """

    arguments: Any
    own: list[bool]
    opaque: str | None = None


class Call(NamedTuple):
    """Arguments of a fusion, and the blocks in each of their tensors, in order.

    `constants` are the tensors of floats that are no features, by position.
    """

    arguments: Any
    blocks: list[list[Span]]
    constants: dict[int, Tensor]


def heard(model: Any, arguments: Any) -> Heard:
    """Copy the arguments of a fusion, and note which of them are the model's own.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 2)
    >>> heard(model, ((torch.ones(2), model.weight[:1]), {})).own
    [False, True]
    """
    own = {_memory(tensor) for tensor in (*model.parameters(), *model.buffers())} - {0}

    def hides(thing: Any) -> bool:
        held = tensors(parts(thing))
        return any(tensor.is_floating_point() and _memory(tensor) not in own for tensor in held)

    opaque = next((shown(leaf) for leaf in leaves(arguments) if hides(leaf)), None)
    flags = [_memory(tensor) in own for tensor in tensors(arguments)]
    return Heard(mapped(torch.clone, arguments), flags, opaque)


def _memory(tensor: Tensor) -> int:
    """Where the memory begins that a tensor looks at; 0 if it has none."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return 0
    return int(tensor.untyped_storage().data_ptr())


def located_call(
    name: str,
    heard: Heard,
    traces: Mapping[str, Sequence[Tensor]],
    constants: Mapping[int, Tensor] | None = None,
    first: bool = True,
) -> Call:
    """Find the features among the arguments of a fusion.

    Parameters
    ----------
    name : str
        The fusion, to name in errors.
    heard : Heard
        What it was called with.
    traces : mapping of modality to sequence of tensors
        What counts as each modality's features.
    constants : mapping of position to tensor, optional
        The tensors that were no features in an earlier batch: they must be the same again.
    first : bool
        Whether it is the export's first batch. A tensor that is no features and has an axis as
        long as the batch, or a multiple of it, is then taken for one with a row per sample.

    Raises
    ------
    ParameterError
        If a modality's features are not among them; if a tensor of floats is neither a
        modality's features nor a constant, since what it says about an absent modality would
        stay; or if two modalities have the same features.

    Examples
    --------
    >>> a, b = torch.ones(2, 3), torch.full((2, 1), 5.0)
    >>> given = Heard(((torch.cat([a, b], 1),), {}), [False])
    >>> call = located_call("fusion", given, {"a": [a], "b": [b]})
    >>> call.blocks
    [[Span(modality='a', axis=1, start=0, width=3), Span(modality='b', axis=1, start=3, width=1)]]
    """
    if heard.opaque:
        expected = "expected tensors, or tuples, lists and mappings of them, as arguments"
        message = f"{expected}, found {heard.opaque}, whose tensors cannot be made zero"
        raise ParameterError(f"coalitions: {name}: {message}")
    rows = next(iter(traces.values()))[0].shape[0] if first else 0
    blocks, others = [], {}
    for place, tensor in enumerate(tensors(heard.arguments)):
        found = _blocks(tensor, traces) if tensor.is_floating_point() else []
        blocks.append(found)
        free = heard.own[place] or not tensor.is_floating_point() or not tensor.numel()
        if not found and not free:
            others[place] = tensor
            if problem := _not_constant(place, tensor, constants, rows):
                raise ParameterError(_expected(name, list(traces), problem))
    there = {block.modality for found in blocks for block in found}
    # features that are zero may stand where another modality's are taken to be, and stay zero
    if missing := [m for m, own in traces.items() if m not in there and own[0].any()]:
        given = [shown(tensor) for tensor in tensors(heard.arguments)]
        raise ParameterError(_expected(name, missing, f"found {', '.join(given) or 'no tensor'}"))
    return Call(heard.arguments, blocks, others)


def _not_constant(
    place: int, tensor: Tensor, constants: Mapping[int, Tensor] | None, rows: int
) -> str | None:
    """Say why a tensor that is no features is no constant either; None if it may be one."""
    problem = f"found {shown(tensor)} that is no modality's features, nor several in a row"
    if constants is not None:
        before = constants.get(place)
        same = before is not None and before.dtype == tensor.dtype and torch.equal(before, tensor)
        return None if same else f"{problem}, and other than in the first batch"
    if rows and any(size % rows == 0 for size in tensor.shape):
        return f"{problem}, and has perhaps a row per sample (if constant, make it a buffer)"
    return None


def _expected(name: str, modalities: list[str], found: str) -> str:
    return (
        f"coalitions: {name}: expected the features of {', '.join(modalities)} as arguments, "
        f"{found}; name the submodules whose outputs go into {name} unchanged, or return "
        "/coalition_logits/… from function="
    )


def without(call: Call, absent: frozenset[str]) -> Any:
    """Build the arguments anew, with zeros for the features of absent modalities.

    Examples
    --------
    >>> a = torch.ones(1, 2)
    >>> given = Heard(((a,), {"scale": 3}), [False])
    >>> without(located_call("fusion", given, {"a": [a]}), frozenset(["a"]))
    ((tensor([[0., 0.]]),), {'scale': 3})
    """
    blocks = iter(call.blocks)

    def masked(tensor: Tensor) -> Tensor:
        copy = tensor.clone()  # also where nothing is absent: the fusion may work in place
        for block in next(blocks):
            if block.modality in absent:
                copy.narrow(block.axis, block.start, block.width).zero_()
        return copy

    return mapped(masked, call.arguments)


def rerun(module: Callable[..., Any], call: Call, absent: frozenset[str]) -> Any:
    """Call the fusion again, without the absent modalities."""
    args, kwargs = without(call, absent)
    return module(*args, **kwargs)


def _blocks(tensor: Tensor, traces: Mapping[str, Sequence[Tensor]]) -> list[Span]:
    """Read a tensor as blocks that stand side by side along one axis; empty if it is not so."""
    for axis in range(tensor.ndim if tensor.numel() else 0):
        if found := _tiled(tensor, axis, 0, traces, set()):
            return found
    return []


def _tiled(
    tensor: Tensor, axis: int, start: int, traces: Mapping[str, Sequence[Tensor]], dead: set[int]
) -> list[Span] | None:
    """Fill an axis from `start` on; None if no blocks do. `dead` are starts where none did.

    Where features are zero, there may be a choice; it does not matter which one is taken.
    """
    if start == tensor.shape[axis]:
        return []
    for block in [] if start in dead else _blocks_at(tensor, axis, start, traces):
        rest = _tiled(tensor, axis, start + block.width, traces, dead)
        if rest is not None:
            return [block, *rest]
    dead.add(start)
    return None


def _blocks_at(
    tensor: Tensor, axis: int, start: int, traces: Mapping[str, Sequence[Tensor]]
) -> list[Span]:
    """List the modalities whose features stand at a place, the widest first."""
    found: list[Span] = []
    for modality, own in traces.items():
        for trace in own:
            # stacking puts a new axis of size 1 where the blocks stand side by side
            block = trace.unsqueeze(axis) if trace.ndim == tensor.ndim - 1 else trace
            if block.ndim == tensor.ndim and _equal(tensor, axis, start, block):
                found.append(Span(modality, axis, start, block.shape[axis]))
                break
    widths = [block.width for block in found]
    twins = [block for block in found if widths.count(block.width) > 1]
    if twins and tensor.narrow(axis, start, twins[0].width).any():
        names = " and ".join(block.modality for block in twins)
        message = f"expected different features, found the same for {names}"
        raise ParameterError(f"coalitions: {message}: which one is which cannot be told")
    return sorted(found, key=lambda block: -block.width)


def _equal(tensor: Tensor, axis: int, start: int, block: Tensor) -> bool:
    shape = list(tensor.shape)
    shape[axis] = block.shape[axis]
    if list(block.shape) != shape or not 0 < block.shape[axis] <= tensor.shape[axis] - start:
        return False
    there = tensor.narrow(axis, start, block.shape[axis])
    return torch.equal(there, block.to(there.dtype))
