"""What a loader yields: how many rows, what of a batch the model gets, and what is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from mmselect.errors import ParameterError
from mmselect.torch.trees import look, mapped, shown

Key = str | int | Callable[[Any], Any]
"""Where something is in a batch: a key or attribute, a position, or a function of the batch."""

RANDOM = (
    torch.utils.data.RandomSampler,
    torch.utils.data.SubsetRandomSampler,
    torch.utils.data.WeightedRandomSampler,
)
"""Samplers that draw in random order whatever their options."""

Inputs = str | int | Sequence[str | int] | Callable[[Any], Any] | None


def promised_rows(loader: Any, n: int | None) -> int | None:
    """Count the rows to expect: `n`, or what the loader's data set says; None if nobody knows."""
    if n is not None:
        return n
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None


def shuffles(loader: Any) -> bool:
    """Whether a loader draws in random order, as far as its samplers are PyTorch's own.

    Examples
    --------
    >>> random = torch.utils.data.RandomSampler(range(9))
    >>> batches = torch.utils.data.BatchSampler(random, 3, drop_last=False)
    >>> shuffles(torch.utils.data.DataLoader(range(9), batch_sampler=batches))
    True
    """
    return any(isinstance(s, RANDOM) or _shuffled_shard(s) for s in _samplers(loader))


def own_generators(loader: Any) -> list[Any]:
    """List the random generators that a loader and its samplers were given.

    Examples
    --------
    >>> generator = torch.Generator()
    >>> loader = torch.utils.data.DataLoader(range(9), shuffle=True, generator=generator)
    >>> own_generators(loader) == [generator]
    True
    """
    found = [getattr(part, "generator", None) for part in (loader, *_samplers(loader))]
    return list(dict.fromkeys(each for each in found if isinstance(each, torch.Generator)))


def _samplers(loader: Any) -> list[Any]:
    """List a loader's samplers, those inside batch samplers too."""
    outer = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    return [*outer, *(getattr(sampler, "sampler", None) for sampler in outer)]


def _shuffled_shard(sampler: Any) -> bool:
    return isinstance(sampler, torch.utils.data.DistributedSampler) and sampler.shuffle


def moved(batch: Any, device: Any) -> Any:
    """Put the tensors of a batch on a device, without waiting where the loader pins memory."""
    if not isinstance(batch, torch.Tensor | Mapping | tuple | list) and hasattr(batch, "to"):
        return batch.to(device)  # a graph, for example
    ahead = device.type == "cuda"  # a copy to the CPU that nobody waits for would not be whole
    # a packed sequence is a tuple, of which one part has to stay on the CPU
    whole = (torch.Tensor, PackedSequence)
    return mapped(lambda part: part.to(device, non_blocking=ahead), batch, whole)


def column(batch: Any, name: str, key: Key) -> Any:
    """Take from a batch what is written under a name.

    Raises
    ------
    ParameterError
        If the batch does not have it.

    Examples
    --------
    >>> column({"y": [0, 1]}, "labels", "y"), column(("x", [0, 1]), "labels", 1)
    ([0, 1], [0, 1])
    """
    if callable(key):
        return key(batch)
    try:
        return look(batch, key)
    except LookupError as error:
        raise ParameterError(f"{name}: {error}") from None


def arguments(
    batch: Any, inputs: Inputs, taken: Collection[Key]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Split a batch into the arguments of the model.

    Parameters
    ----------
    batch : mapping, tuple, list or anything else
        Keys become keyword arguments, positions positional ones; anything else is one argument.
    inputs : key, position, sequence of them, or function of the batch, optional
        What the model gets. A function returns a mapping (keywords), a tuple, or one argument.
        None is all of the batch but `taken`.
    taken : collection of keys and positions
        What is written to the pool and therefore not given to the model.

    Raises
    ------
    ParameterError
        If the batch does not have an input.

    Examples
    --------
    >>> arguments({"image": 1, "y": 2}, None, ["y"])
    ([], {'image': 1})
    >>> arguments((1, 2, 3), None, [2]), arguments((1, 2, 3), 1, [])
    (([1, 2], {}), ([2], {}))
    """
    if callable(inputs):
        return _spread(inputs(batch))
    if inputs is None:
        if isinstance(batch, Mapping):
            return [], {key: value for key, value in batch.items() if key not in taken}
        if isinstance(batch, tuple | list):
            kept = [
                i for i in range(len(batch)) if i not in taken and _field(batch, i) not in taken
            ]
            return [batch[i] for i in kept], {}
        return [batch], {}
    keys = [inputs] if isinstance(inputs, str | int) else inputs
    found = {key: column(batch, "inputs", key) for key in keys}
    named = isinstance(batch, Mapping)
    positional = [value for key, value in found.items() if not named or not isinstance(key, str)]
    return positional, {k: v for k, v in found.items() if named and isinstance(k, str)}


def _field(batch: Any, position: int) -> str | None:
    """Name of a position in a named tuple."""
    return batch._fields[position] if hasattr(batch, "_fields") else None


def _spread(found: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(found, Mapping):
        return [], found
    return (found, {}) if isinstance(found, tuple) else ([found], {})


def check_arguments(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Hold arguments against the model's ``forward`` before it runs.

    Raises
    ------
    ParameterError
        Saying what it takes, and what it would get.
    """
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        found = shown(dict(kwargs)) if kwargs else shown(tuple(args))
        takes = ", ".join(signature.parameters)
        message = f"inputs: expected what forward({takes}) takes, found {found} ({error})"
        raise ParameterError(f"{message}: say with inputs= what the model gets") from None
