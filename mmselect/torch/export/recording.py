"""Keep what encoders return while the model runs, and let them answer from memory.

A fusion is seen without some modalities by running the model again: each submodule named as a
modality's features returns what it returned before, without running, or zeros of it where the
modality is absent. Whatever lies between the encoders and the logits runs as it stands in the
model's own forward.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmselect.errors import ParameterError
from mmselect.torch.export.trees import Tensor


@dataclass(frozen=True)
class Memory:
    """A copy of what one submodule returned, whatever it is: tensors, mappings, objects.

    Attributes
    ----------
    output : any
    features : dict of path to tensor or None
        The tensor in `output` that is exported under a path; None if it was computed from it.
    """

    output: Any
    features: dict[str, Tensor | None]

    @classmethod
    def of(cls, name: str, output: Any, features: Mapping[str, Tensor]) -> Memory:
        """Copy an output, and find its features in the copy.

        Raises
        ------
        ParameterError
            If it cannot be copied, or holds the features of several modalities and it cannot be
            told which tensor is whose.
        """
        memo: dict[int, Any] = {}
        try:
            own = copy.deepcopy(output, memo)
        except (RuntimeError, TypeError) as error:  # a tensor with a gradient, a generator
            reason = str(error).splitlines()[0]
            message = f"expected an output that can be copied, found one that cannot: {reason}"
            raise ParameterError(f"coalitions: {name}: {message}") from None
        there = {path: memo.get(id(tensor)) for path, tensor in features.items()}
        if len(there) > 1 and None in there.values():
            message = f'name the part of each modality as "{name}:part", not by a function'
            raise ParameterError(f"coalitions: {name} returns several modalities: {message}")
        return cls(own, there)

    def without(self, absent: Collection[str]) -> Any:
        """Copy the output; where its features are absent, with zeros for every number.

        Of an output that holds several modalities, what is exported for one that is present is
        kept. All else is zero, as nobody can tell which modality it speaks of.

        Examples
        --------
        >>> both = {"a": torch.ones(1), "b": torch.ones(1), "a + b": torch.full((1,), 2.0)}
        >>> memory = Memory(both, {name: both[name] for name in ("a", "b")})
        >>> memory.without(["b"])
        {'a': tensor([1.]), 'b': tensor([0.]), 'a + b': tensor([0.])}
        """
        memo: dict[int, Any] = {}
        again = copy.deepcopy(self.output, memo)
        present = [own for path, own in self.features.items() if path not in absent]
        if present and len(self.features) == 1:
            return again
        kept = [(memo[id(own)], own.clone()) for own in present if own is not None]
        for tensor in memo.values():
            if isinstance(tensor, torch.Tensor):
                _blank(tensor)
        for tensor, value in kept:
            tensor.copy_(value)  # it may share memory with what is zero now
        return again


def _blank(tensor: Tensor) -> None:
    """Make every number zero; rows that are one row, expanded, are reached by their memory only."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return  # masks and lengths
    if tensor.layout == torch.strided:
        tensor.untyped_storage().fill_(0)
    else:
        tensor.zero_()
