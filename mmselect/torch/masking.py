"""Run a fusion again with some modalities absent: their features are zero wherever they go in.

The features are recognised by value among the tensors that the fusion was called with: alone, in
tuples, lists or mappings, and side by side in one tensor (concatenated or stacked along any axis).
A tensor that the fusion gets counts as a modality's if it equals the exported features, or any
tensor that the features' submodule returned, so that token sequences are recognised where the
exported features are only their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mmselect.errors import ParameterError
from mmselect.torch.trees import Tensor, mapped, shown, tensors


class Block(NamedTuple):
    """Where in a tensor one modality's features stand: `width` places along `axis`."""

    modality: str
    axis: int
    start: int
    width: int


class Call(NamedTuple):
    """Arguments of a fusion, and the blocks in each of their tensors, in order."""

    arguments: Any
    blocks: list[list[Block]]


def located_call(name: str, arguments: Any, traces: Mapping[str, Sequence[Tensor]]) -> Call:
    """Find the features among the arguments of a fusion.

    Parameters
    ----------
    name : str
        The fusion, to name in errors.
    arguments : (args, kwargs)
        What it was called with.
    traces : mapping of modality to sequence of tensors
        What counts as each modality's features.

    Raises
    ------
    ParameterError
        If a modality's features are not among them; if a tensor of floats with a row per sample
        is no modality's features, since what it says about an absent modality would stay; or if
        two modalities have the same features.

    Examples
    --------
    >>> a, b = torch.ones(2, 3), torch.full((2, 1), 5.0)
    >>> call = located_call("fusion", ((torch.cat([a, b], 1),), {}), {"a": [a], "b": [b]})
    >>> call.blocks
    [[Block(modality='a', axis=1, start=0, width=3), Block(modality='b', axis=1, start=3, width=1)]]
    """
    rows = next(iter(traces.values()))[0].shape[0]
    blocks = []
    for tensor in tensors(arguments):
        found = _blocks(tensor, traces) if tensor.is_floating_point() else []
        if not found and tensor.is_floating_point() and rows in tensor.shape:
            message = f"found {shown(tensor)} that is no modality's features, nor several in a row"
            raise ParameterError(_expected(name, list(traces), message))
        blocks.append(found)
    there = {block.modality for found in blocks for block in found}
    if missing := [modality for modality in traces if modality not in there]:
        given = [shown(tensor) for tensor in tensors(arguments)]
        raise ParameterError(_expected(name, missing, f"found {', '.join(given) or 'no tensor'}"))
    return Call(arguments, blocks)


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
    >>> without(located_call("fusion", ((a,), {"scale": 3}), {"a": [a]}), frozenset(["a"]))
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


def replay(module: Callable[..., Any], call: Call, absent: frozenset[str]) -> Any:
    """Call the fusion again, without the absent modalities."""
    args, kwargs = without(call, absent)
    return module(*args, **kwargs)


def _blocks(tensor: Tensor, traces: Mapping[str, Sequence[Tensor]]) -> list[Block]:
    """Read a tensor as blocks that stand side by side along one axis; empty if it is not so."""
    for axis in range(tensor.ndim if tensor.numel() else 0):
        found: list[Block] = []
        start = 0
        while start < tensor.shape[axis]:
            block = _block_at(tensor, axis, start, traces)
            if block is None:
                break
            found.append(block)
            start += block.width
        else:
            return found
    return []


def _block_at(
    tensor: Tensor, axis: int, start: int, traces: Mapping[str, Sequence[Tensor]]
) -> Block | None:
    found: list[Block] = []
    for modality, own in traces.items():
        for trace in own:
            # stacking puts a new axis of size 1 where the blocks stand side by side
            block = trace.unsqueeze(axis) if trace.ndim == tensor.ndim - 1 else trace
            if block.ndim == tensor.ndim and _equal(tensor, axis, start, block):
                found.append(Block(modality, axis, start, block.shape[axis]))
                break
    names = [block.modality for block in found]
    if len(names) > 1 and tensor.narrow(axis, start, found[0].width).any():
        message = f"expected different features, found the same for {' and '.join(names)}"
        raise ParameterError(f"coalitions: {message}: which one is which cannot be told")
    return found[0] if found else None


def _equal(tensor: Tensor, axis: int, start: int, block: Tensor) -> bool:
    shape = list(tensor.shape)
    shape[axis] = block.shape[axis]
    if list(block.shape) != shape or not 0 < block.shape[axis] <= tensor.shape[axis] - start:
        return False
    there = tensor.narrow(axis, start, block.shape[axis])
    return torch.equal(there, block.to(there.dtype))
