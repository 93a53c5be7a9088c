"""The torch helper: from a PyTorch model to a pool file, and the training pieces the methods need.

Optional: ``pip install mmselect[torch]``. It imports the rest of the package; of the rest, only the
command ``align`` imports it.
"""

from mmselect.torch.export.exporting import export_pool
from mmselect.torch.training.align import Aligned, align_features
from mmselect.torch.training.heads import SingleModalHeads
from mmselect.torch.training.losses import (
    info_nce,
    multimodal_loss,
    prototypical_loss,
    self_distillation_loss,
)
from mmselect.torch.training.prototypes import UnimodalPrototypes

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
