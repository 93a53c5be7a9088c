"""What must not change between an export and its continuation, or between its parts."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from mmselect.torch.export.outputs import qualname, submodule
from mmselect.torch.export.running import Plan

DIGESTED = 4096
"""Bytes of each tensor of a model that a continuation holds against those of the export before."""


def settings(plan: Plan) -> dict[str, str | None]:
    """List the settings of an export, as text that is the same in every process."""
    classifier = plan.classifier
    found: dict[str, Any] = {**plan.picks, **plan.columns}
    found |= {name: getattr(plan, name) for name in ("function", "inputs", "amp", "dtype")}
    found |= {
        "coalitions": plan.coalitions,
        "classifier": classifier and f"{classifier} {digest(submodule(plan.model, classifier))}",
        "model": digest(plan.model, DIGESTED),
        "class_names": plan.class_names,
        "dropout_passes": plan.passes,
        "seed": plan.seed if plan.passes else None,
    }
    return {name: _text(each) for name, each in found.items()}


def _text(thing: Any) -> str | None:
    return thing if thing is None else qualname(thing) if callable(thing) else str(thing)


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
