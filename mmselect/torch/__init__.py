"""The torch helper: from a PyTorch model to a pool file, and the training pieces the methods need.

Optional: ``pip install mmselect[torch]``. It imports the rest of the package; of the rest, only the
command ``align`` imports it.
"""

from mmselect.torch.align import Aligned, align_features
from mmselect.torch.export import export_pool
from mmselect.torch.heads import SingleModalHeads
from mmselect.torch.losses import (
    info_nce,
    multimodal_loss,
    prototypical_loss,
    self_distillation_loss,
)
from mmselect.torch.prototypes import UnimodalPrototypes

__all__ = [
    "Aligned",
    "SingleModalHeads",
    "UnimodalPrototypes",
    "align_features",
    "export_pool",
    "info_nce",
    "multimodal_loss",
    "prototypical_loss",
    "self_distillation_loss",
]
