"""Batches and outputs as models have them: tensors inside tuples, mappings and objects."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from typing import Any

import torch

from mmselect.errors import few

Tensor = Any
Tree = Any
"""A tensor, or a tuple, list or mapping of trees. Anything else is carried along as it is."""


def mapped(
    function: Callable[[Tensor], Any], tree: Tree, leaf: tuple[type, ...] = (torch.Tensor,)
) -> Tree:
    """Build the same tree with `function` of every tensor; the tree itself stays as it is.

    `leaf` are the types that `function` gets as a whole. Mappings keep their type, so that a batch
    that can also be read by attributes still can.

    Examples
    --------
    >>> mapped(lambda x: x + 1, {"a": (torch.zeros(2), "text")})
    {'a': (tensor([1., 1.]), 'text')}
    """
    if isinstance(tree, leaf):
        return function(tree)
    if isinstance(tree, Mapping):
        new = copy.copy(tree) if isinstance(tree, MutableMapping) else dict(tree)
        for key, value in tree.items():
            new[key] = mapped(function, value, leaf)
        return new
    if isinstance(tree, tuple | list):
        items = [mapped(function, item, leaf) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


def tensors(tree: Tree) -> list[Tensor]:
    """List every tensor of a tree, in order.

    Examples
    --------
    >>> tensors({"a": [torch.tensor(1), "text"], "b": torch.tensor(2)})
    [tensor(1), tensor(2)]
    """
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor  # a packed sequence cannot be built of anything else

    mapped(keep, tree)
    return found


def leaves(tree: Tree) -> Iterator[Any]:
    """Go through what a tree carries along beside its tensors.

    Examples
    --------
    >>> list(leaves({"a": [torch.tensor(1), "text"], "b": (None,)}))
    ['text', None]
    """
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        for item in tree:
            yield from leaves(item)
    elif not isinstance(tree, torch.Tensor):
        yield tree


def parts(thing: Any) -> dict[str, Any]:
    """Attributes of an object that is no tree, such as a data class.

    Examples
    --------
    >>> import types
    >>> parts(types.SimpleNamespace(logits=1)), parts("text")
    ({'logits': 1}, {})
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {field.name: getattr(thing, field.name, None) for field in dataclasses.fields(thing)}
    return dict(getattr(thing, "__dict__", {}))


def look(tree: Tree, key: str | int) -> Any:
    """Find a part by key, by position, or by attribute.

    Raises
    ------
    LookupError
        Saying which parts there are.

    Examples
    --------
    >>> look({"logits": 1}, "logits"), look((1, 2), "1"), look((1, 2), 0)
    (1, 2, 1)
    """
    if isinstance(tree, Mapping):
        if key in tree:
            return tree[key]
    elif isinstance(tree, tuple | list) and str(key).isdecimal():
        if int(key) < len(tree):
            return tree[int(key)]
    elif isinstance(key, str) and hasattr(tree, key):
        return getattr(tree, key)
    raise LookupError(f"expected a part of {shown(tree)}, found {key!r}")


def shown(tree: Tree) -> str:
    """Say what a tree holds, with the shapes of its tensors.

    Examples
    --------
    >>> shown((torch.zeros(2, 3), {"a": torch.zeros(1)}, "text"))
    'a tuple of 3: (2, 3), dict with a (1,), str'
    """
    if isinstance(tree, torch.Tensor):
        return str(tuple(tree.shape))
    if isinstance(tree, Mapping):
        items = [f"{key} {shown(value)}" for key, value in tree.items()]
        return f"{type(tree).__name__} with {few(items)}"
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)}: {few([shown(item) for item in tree])}"
    public = [] if callable(tree) else [name for name in parts(tree) if not name.startswith("_")]
    return f"{type(tree).__name__} with {few(public)}" if public else type(tree).__name__


def nearest(name: str, names: list[str]) -> str:
    """List the names that look most like one that does not exist; failing that, the first few.

    Examples
    --------
    >>> nearest("image_encodr", ["image_encoder", "text_encoder", "fusion"])
    'image_encoder, text_encoder'
    """
    return ", ".join(get_close_matches(name, names, n=3, cutoff=0.5)) or few(names)
