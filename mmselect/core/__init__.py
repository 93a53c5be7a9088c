"""The mathematics: arrays in, arrays out; no file, no pool, no console.

===============  =================================================================================
`information`    entropies, the Jensen-Shannon divergence, BALD
`shapley`        contributions of the modalities, dominance, balance weights
`gradients`      gradient embeddings as two factors
`sampling`       D² sampling over gradients or features
`parametric`     MMCSAL and ActiveFT
===============  =================================================================================

SciPy and faiss are imported by the functions that need them, when they are called.
"""

from mmselect.core import parametric, sampling
from mmselect.core.sampling import gradients
from mmselect.core.scores import information, shapley

__all__ = ["gradients", "information", "parametric", "sampling", "shapley"]
