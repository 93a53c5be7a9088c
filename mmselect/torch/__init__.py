"""The torch helper: from a PyTorch model to a pool file, and the training pieces the methods need.

Optional: ``pip install mmselect[torch]``. It imports the rest of the package; of the rest, only the
command ``align`` imports it.
"""

from mmselect.torch.export import export_pool

__all__ = ["export_pool"]
