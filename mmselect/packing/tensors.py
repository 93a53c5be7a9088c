"""Files of PyTorch: weights only, so that nothing in them is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmselect.errors import InputError, needing
from mmselect.packing.source import Converted, Files, Source, choose, widened
from mmselect.pool.parts import ArrayPart, Part


def tensor_keys(path: Path) -> list[str]:
    """Names of the tensors: keys, and keys in dictionaries joined by dots."""
    return sorted(_tensors(_loaded(path)))


def open_tensor(path: Path, key: str, files: Files) -> Source:
    """One tensor, mapped into memory; bfloat16 becomes float32."""
    import torch

    loaded = files.shared.setdefault(path, None)
    if loaded is None:
        loaded = files.shared[path] = _tensors(_loaded(path))
    key = choose(key, sorted(loaded), path, "tensors")
    tensor = loaded[key].detach()
    if not tensor.ndim or tensor.layout is not torch.strided:
        found = tensor.layout if tensor.ndim else "one number"
        raise InputError(f"expected a row per sample, found {found}", file=str(path), dataset=key)
    short = tensor.dtype is torch.bfloat16
    try:
        values = (tensor.view(torch.uint16) if short else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise InputError(f"expected plain numbers: {error}", file=str(path), dataset=key) from None
    part: Part = ArrayPart(str(path), key, values.shape, values.dtype, values)
    if short:
        part = Converted(str(path), key, values.shape, np.dtype("<f4"), part, widened)
    return Source(path, key, (part,))


def _loaded(path: Path) -> Any:
    with needing(str(path), "torch", "torch"):
        import torch
    if not path.is_file():
        raise InputError("expected a regular file, found none", file=str(path))
    for mapped in (True, False):  # files of old versions, which are no zip, cannot be mapped
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # torch raises errors of many kinds over a foreign file
            detail = str(error)
            if mapped and "mmap can only be used" in detail:
                continue
            if "weights_only" in detail or "Weights only" in detail:
                detail = "it holds Python objects, which are not read; save the tensors alone"
            message = f"expected tensors: {detail.strip().partition(chr(10))[0][:200]}"
            raise InputError(message, file=str(path)) from None
    raise AssertionError


def _tensors(value: Any, prefix: str = "") -> dict[str, Any]:
    """Tensors by name, those in dictionaries with the names on the way."""
    if hasattr(value, "detach"):
        return {prefix: value}
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, each in value.items():
        found |= _tensors(each, f"{prefix}.{name}" if prefix else str(name))
    return found
