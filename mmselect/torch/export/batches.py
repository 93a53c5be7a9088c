"""What a loader yields: in which order, how many rows, what the model gets, what is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils import data

from mmselect.errors import ParameterError
from mmselect.torch.export.trees import look, mapped, shown

Key = str | int | Callable[[Any], Any]
"""Where something is in a batch: a key or attribute, a position, or a function of the batch."""

Inputs = str | int | Sequence[str | int] | Callable[[Any], Any] | None


def promised_rows(loader: Any, n: int | None) -> int | None:
    """Count the rows to expect: `n`, or what the loader's data set says; None if nobody knows."""
    with suppress(AttributeError, TypeError):
        return len(loader.dataset) if n is None else n
    return None


def order_problem(loader: Any) -> str | None:
    """Say why a loader may not go through the rows in order, once; None if it is known to.

    Batches that are no loader's (a list of them, a generator) are in the order they come in.

    Examples
    --------
    >>> order_problem(data.DataLoader(range(9), batch_size=2)), order_problem([[0, 1], [2]])
    (None, None)
    >>> order_problem(data.DataLoader(range(9), sampler=[3, 1, 2]))
    'rows in the order of a list'
    """
    if isinstance(getattr(loader, "dataset", None), data.IterableDataset):
        workers = getattr(loader, "num_workers", 0)
        return f"an iterable data set with {workers} workers" if workers > 1 else None
    if getattr(loader, "num_workers", 0) > 1 and not getattr(loader, "in_order", True):
        return "in_order=False"
    for sampler in _samplers(loader):
        if type(sampler) not in (data.BatchSampler, data.SequentialSampler):
            return f"rows in the order of a {type(sampler).__name__}"
    return None


def own_generators(loader: Any) -> list[Any]:
    """List the random generators that a loader and its samplers were given.

    Examples
    --------
    >>> generator = torch.Generator()
    >>> loader = data.DataLoader(range(9), shuffle=True, generator=generator)
    >>> own_generators(loader) == [generator]
    True
    """
    found = {getattr(part, "generator", None): None for part in (loader, *_samplers(loader))}
    return [each for each in found if isinstance(each, torch.Generator)]


def _samplers(loader: Any) -> list[Any]:
    """List the samplers that a loader or sampler draws from: batch samplers come before others."""
    sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None) if sampler is None else sampler
    return [] if sampler is None else [sampler, *_samplers(sampler)]


def moved(batch: Any, device: Any) -> Any:
    """Put the tensors of a batch on a device, without waiting where the loader pins memory."""
    ahead = device.type == "cuda"  # a copy to the CPU that nobody waits for would not be whole

    def place(part: Any) -> Any:
        if isinstance(part, torch.Tensor | PackedSequence):
            return part.to(device, non_blocking=ahead)
        return part.to(device) if hasattr(part, "to") else part  # a graph, for example

    return mapped(place, batch)


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
    return key(batch) if callable(key) else look(batch, key, name)


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
    (((1, 2), {}), ([2], {}))
    """
    if inputs is not None and not callable(inputs):
        keys = [inputs] if isinstance(inputs, str | int) else inputs
        found = {key: column(batch, "inputs", key) for key in keys}
        named = isinstance(batch, Mapping)
        positional = [each for key, each in found.items() if not named or not isinstance(key, str)]
        return positional, {k: v for k, v in found.items() if named and isinstance(k, str)}
    given = inputs(batch) if callable(inputs) else _rest(batch, taken)
    if isinstance(given, Mapping):
        return [], given
    return (given, {}) if isinstance(given, tuple) else ([given], {})


def _rest(batch: Any, taken: Collection[Key]) -> Any:
    """Leave out of a batch what is written to the pool."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in taken}
    if not isinstance(batch, tuple | list):
        return batch
    names = getattr(batch, "_fields", range(len(batch)))  # those of a named tuple
    kept = [i for i, name in enumerate(names) if i not in taken and name not in taken]
    return tuple(batch[i] for i in kept)


def check_arguments(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Hold arguments against the model's ``forward`` before it runs.

    Raises
    ------
    ParameterError
        Saying what it takes, and what it would get.
    """
    takes = inspect.signature(model.forward)
    try:
        takes.bind(*args, **kwargs)
    except TypeError as error:
        found = shown(dict(kwargs)) if kwargs else shown(tuple(args))
        expected = f"what forward({', '.join(takes.parameters)}) takes"
        message = f"inputs: expected {expected}, found {found} ({error})"
        raise ParameterError(f"{message}: say with inputs= what the model gets") from None
