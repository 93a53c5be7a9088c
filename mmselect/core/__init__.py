"""The mathematics: arrays in, arrays out; no file, no pool, no console.

===============  =================================================================================
`information`    entropies, the Jensen-Shannon divergence, BALD
`shapley`        contributions of the modalities, dominance, balance weights
`gradients`      gradient embeddings as two factors
`sampling`       D² sampling over gradients or features
`parametric`     MMCSAL and ActiveFT
===============  =================================================================================

Each is imported when it is first used, and SciPy and faiss by the functions that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmselect.core import parametric, sampling
    from mmselect.core.sampling import gradients
    from mmselect.core.scores import information, shapley

__all__ = ["gradients", "information", "parametric", "sampling", "shapley"]

_HOME = {
    "gradients": "sampling.gradients",
    "information": "scores.information",
    "parametric": "parametric",
    "sampling": "sampling",
    "shapley": "scores.shapley",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return import_module(f"mmselect.core.{_HOME[name]}")
    raise AttributeError(f"module 'mmselect.core' has no attribute {name!r}")
