"""Single-modal heads: auxiliary classifiers that listen to a model and never change it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from mmselect.errors import ParameterError
from mmselect.pool.schema import NAME


class SingleModalHeads(nn.Module):
    """One auxiliary classifier per modality, on detached features.

    SMEM (BMVC 2021) compares what each modality says alone with what the model says. The heads are
    trained beside the model, with :func:`~mmselect.torch.self_distillation_loss`, and no gradient
    of theirs reaches it: the features are detached here, so adding the heads changes nothing else.

    Parameters
    ----------
    sizes : mapping of modality to int
        Width of each modality's features. A head is a submodule under its modality's name, so that
        ``unimodal_logits={"image": "heads.image"}`` finds it when a pool is exported.
    classes : int
    hidden : int, optional
        Width of one hidden layer with a ReLU; default: heads are linear.

    Raises
    ------
    ParameterError
        If there is no modality, a size is not positive, or a name cannot be that of a submodule.

    Examples
    --------
    >>> import torch
    >>> heads = SingleModalHeads({"image": 512, "text": 384}, classes=10)
    >>> logits = heads({"image": torch.zeros(4, 512), "text": torch.zeros(4, 384)})
    >>> logits["text"].shape
    torch.Size([4, 10])
    """

    def __init__(self, sizes: Mapping[str, int], classes: int, hidden: int | None = None) -> None:
        super().__init__()
        if not sizes:
            raise ParameterError("sizes: expected at least one modality, found none")
        given = (*sizes.values(), classes, 1 if hidden is None else hidden)
        if not all(isinstance(size, int | np.integer) and size >= 1 for size in given):
            found = f"found {dict(sizes)}, {classes} classes, hidden {hidden}"
            raise ParameterError(f"expected whole sizes of at least 1, {found}")
        self.sizes = dict(sizes)
        for name, size in sizes.items():
            known = isinstance(name, str) and re.fullmatch(NAME, name) and "." not in name
            if not known or hasattr(self, name):
                expected = f"expected a name like {NAME}, without a dot, that is not torch's own"
                raise ParameterError(f"modality {name!r}: {expected}")
            self.add_module(name, _head(size, classes, hidden))

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (b, c) of each head, from features (b, d_m) that are detached first.

        Raises
        ------
        ParameterError
            If the modalities or their widths are not those of the heads.
        """
        found = {name: tensor.shape[-1] for name, tensor in features.items()}
        if found != self.sizes:
            raise ParameterError(f"expected features of widths {self.sizes}, found {found}")
        return {name: self.get_submodule(name)(features[name].detach()) for name in self.sizes}


def _head(size: int, classes: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(size, classes)
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, classes))
