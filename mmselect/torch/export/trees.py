"""Batches and outputs as models have them: tensors inside tuples, mappings and objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from mmselect.errors import ParameterError, few

Tensor = Any
Tree = Any
"""A tensor, or a tuple, list or mapping of trees. Anything else is carried along as it is."""


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Build the same tree with `function` of everything in it that is no tuple, list or mapping.

    Mappings keep their type, so that a batch that can also be read by attributes still can. A
    packed sequence counts as one thing: a part of it has to stay on the CPU.

    Examples
    --------
    >>> mapped(lambda x: x + 1, {"a": (torch.zeros(2), 1)})
    {'a': (tensor([1., 1.]), 2)}
    """

    def leaf(part: Any) -> Any:
        if not isinstance(part, Mapping):
            return function(part)
        new = copy.copy(part) if isinstance(part, MutableMapping) else dict(part)
        for key, value in part.items():
            new[key] = mapped(function, value)
        return new

    return pytree.tree_map(leaf, tree, is_leaf=lambda part: isinstance(part, PackedSequence))


def look(tree: Tree, key: str | int, where: str) -> Any:
    """Find a part by key, by position, or by attribute.

    Raises
    ------
    ParameterError
        Saying `where` that is, and which parts there are.

    Examples
    --------
    >>> look({"logits": 1}, "logits", "labels"), look((1, 2), "1", "ids"), look((1, 2), 0, "ids")
    (1, 2, 1)
    """
    with suppress(LookupError, AttributeError, TypeError):
        if isinstance(tree, Mapping):
            return tree[key]
        if isinstance(tree, tuple | list) and str(key).isdecimal():
            return tree[int(key)]
        return getattr(tree, str(key))
    raise ParameterError(f"{where}: expected a part of {shown(tree)}, found {key!r}")


def names(tree: Tree) -> list[str]:
    """Keys of a mapping, or the public attributes of an object such as a data class.

    Examples
    --------
    >>> import types
    >>> names(types.SimpleNamespace(logits=1)), names({"a": 1}), names("text")
    (['logits'], ['a'], [])
    """
    found = tree if isinstance(tree, Mapping) else getattr(tree, "__dict__", ())
    return [str(name) for name in found if not str(name).startswith("_")]


def shown(tree: Tree) -> str:
    """Say what a tree holds, with the shapes of its tensors.

    Examples
    --------
    >>> shown((torch.zeros(2, 3), {"a": torch.zeros(1)}, "text"))
    'a tuple of 3: (2, 3), dict with a (1,), str'
    """
    if isinstance(tree, torch.Tensor):
        return str(tuple(tree.shape))
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)}: {few([shown(item) for item in tree])}"
    if isinstance(tree, Mapping):
        parts = [f"{key} {shown(value)}" for key, value in tree.items()]
    else:
        parts = [] if callable(tree) else names(tree)
    return f"{type(tree).__name__} with {few(parts)}" if parts else type(tree).__name__
