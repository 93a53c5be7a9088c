"""The linear head on the concatenated features: cut by modality, and held against the logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmselect.errors import ParameterError, SchemaError
from mmselect.pool.conversion import to_numpy
from mmselect.pool.presence import PRESENT
from mmselect.pool.schema import names_in
from mmselect.torch.export.outputs import submodule
from mmselect.torch.export.plan import FUSED, Plan
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
    if plan.ask.classifier is not None:
        z = {p.rpartition("/")[2]: x for p, x in found.items() if p.startswith("/features/")}
        logits = found[FUSED]
        weight, bias = _linear_layer(plan, {name: each.shape[1] for name, each in z.items()})
        masks = [to_numpy(found[f"{PRESENT}/{name}"]) for name in names_in(PRESENT, found)]
        rows = np.flatnonzero(np.logical_and.reduce([np.ones(len(logits), bool), *masks]))
        there = {name: each[rows] for name, each in z.items()}  # W z + b needs all of z
        _check_order(plan, there, weight, bias, logits[rows])
        blocks = weight.split([each.shape[1] for each in z.values()], dim=1)
        out = {f"/classifier/weight/{m}": to_numpy(w) for m, w in zip(z, blocks, strict=True)}
        if bias is not None:
            out["/classifier/bias"] = to_numpy(bias)
    if plan.ask.class_names is not None:
        out["/class_names"] = np.array(plan.ask.class_names, dtype=object)
    return out


def _linear_layer(plan: Plan, widths: Mapping[str, int]) -> tuple[Tensor, Tensor | None]:
    """Weight (c, Σd) and bias of the layer that the user named.

    Raises
    ------
    ParameterError
        If it has no such weight.
    SchemaError
        If its columns are not as many as the features together.
    """
    name = plan.ask.classifier or ""
    layer = submodule(plan.model, name)
    weight, bias = (getattr(layer, part, None) for part in ("weight", "bias"))
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        found = type(layer).__name__ if weight is None else shown(weight)
        message = f"expected a linear layer with a (c, Σd) weight, found {found}"
        raise ParameterError(f"classifier {name}: {message}")
    if weight.shape[1] != sum(widths.values()):
        sizes = " + ".join(f"{m} {d}" for m, d in widths.items())
        message = f"expected {sum(widths.values())} columns ({sizes}), found {weight.shape[1]}"
        raise SchemaError(f"{name}: {message}", dataset="/classifier/weight")
    return weight.detach(), None if bias is None else bias.detach()


def _check_order(
    plan: Plan, z: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None, logits: Tensor
) -> None:
    """Hold W z + b against the logits, up to their types' rounding; z is in the user's order."""
    kinds = {logits.dtype, plan.ask.amp or logits.dtype, weight.dtype}
    step = max(torch.finfo(kind).eps for kind in kinds)
    if plan.device.type == "cuda":
        step = max(step, 2.0**-10)  # it may round the factors of float32 products to ten bits
    w, f = weight.double().cpu(), logits.double().cpu()
    b = torch.zeros(1).double() if bias is None else bias.double().cpu()

    def fits(order: Iterable[str]) -> bool:
        x = torch.cat([z[name].double().cpu() for name in order], dim=1)
        again, size = x @ w.T + b, x.abs() @ w.abs().T + b.abs()
        return f.shape == again.shape and bool((abs(again - f) <= ROUNDINGS * step * size).all())

    if fits(z):
        return
    message = f"classifier {plan.ask.classifier}: expected W z + b to be the multimodal logits"
    for order in permutations(z) if len(z) <= 5 else ():
        if fits(order):
            found = f"other numbers; they fit in the order {', '.join(order)}"
            raise ParameterError(f"{message}, found {found}: give features= in it")
    raise ParameterError(
        f"{message}, found other numbers, in any order of {', '.join(z)}: does something stand "
        "between the features and the classifier, or between the classifier and the logits? Then "
        "export coalitions=True instead"
    )
