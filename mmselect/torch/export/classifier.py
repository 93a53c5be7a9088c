"""The linear head on the concatenated features: cut by modality, and held against the logits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmselect.errors import ParameterError, SchemaError
from mmselect.pool.conversion import to_numpy
from mmselect.torch.export.outputs import submodule
from mmselect.torch.export.running import Plan, fused_logits
from mmselect.torch.export.trees import Tensor, shown

ROUNDINGS = 16
"""Rounding errors, at the size of the sum's terms, by which a linear head may miss the logits."""


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
        named = {path.rpartition("/"): z for path, z in found.items()}
        z = {name: z for (group, _, name), z in named.items() if group == "/features"}
        if not _reproduces(plan, z, found):
            raise ParameterError(f"classifier {plan.classifier}: {_order_problem(plan, z, found)}")
        weight, bias = linear_parts(plan.model, plan.classifier, _widths(z))
        out = {f"/classifier/weight/{name}": to_numpy(block) for name, block in weight.items()}
        if bias is not None:
            out["/classifier/bias"] = to_numpy(bias)
    if plan.class_names is not None:
        out["/class_names"] = np.array(plan.class_names, dtype=object)
    return out


def _widths(z: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.shape[1] for name, tensor in z.items()}


def _reproduces(plan: Plan, z: Mapping[str, Tensor], found: Mapping[str, Any]) -> bool:
    """Whether the head, cut in the order of `z`, gives the logits up to their type's rounding."""
    assert plan.classifier is not None  # asked for only where there is one
    weight, bias = linear_parts(plan.model, plan.classifier, _widths(z))
    wide = [(z[name].double().cpu(), block.double().cpu()) for name, block in weight.items()]
    b = torch.zeros(1).double() if bias is None else bias.double().cpu()
    logits = fused_logits(plan, found)
    f = sum((x @ w.T for x, w in wide), b)
    size = sum((x.abs() @ w.abs().T for x, w in wide), b.abs())
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
        if _reproduces(plan, {name: z[name] for name in order}, found):
            return f"{message}; they fit in the order {', '.join(order)}: give features= in it"
    return (
        f"{message}, in any order of {', '.join(z)}: does something stand between the features "
        "and the classifier, or between the classifier and the logits? "
        "Then export coalitions=True instead"
    )


def linear_parts(
    model: Any, name: str, widths: Mapping[str, int]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Cut a linear layer's weight into one block of columns per modality.

    Parameters
    ----------
    model : Module
    name : str
        Dotted name of a layer with a (c, Σd) weight and perhaps a (c,) bias.
    widths : mapping of modality to int
        Feature sizes, in the order in which the model concatenates them.

    Raises
    ------
    ParameterError
        If the layer has no such weight.
    SchemaError
        If its columns are not as many as the features together.

    Examples
    --------
    >>> weight, bias = linear_parts(torch.nn.Linear(5, 2), "", {"image": 3, "text": 2})
    >>> weight["text"].shape, bias.shape
    (torch.Size([2, 2]), torch.Size([2]))
    """
    layer = submodule(model, name)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        found = type(layer).__name__ if weight is None else shown(weight)
        message = f"expected a linear layer with a (c, Σd) weight, found {found}"
        raise ParameterError(f"classifier {name}: {message}")
    if weight.shape[1] != sum(widths.values()):
        sizes = " + ".join(f"{m} {d}" for m, d in widths.items())
        message = f"expected {sum(widths.values())} columns ({sizes}), found {weight.shape[1]}"
        raise SchemaError(f"{name}: {message}", dataset="/classifier/weight")
    blocks = weight.detach().split(list(widths.values()), dim=1)
    bias = getattr(layer, "bias", None)
    parts = dict(zip(widths, blocks, strict=True))
    return parts, None if bias is None else bias.detach()
