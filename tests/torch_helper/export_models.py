"""Small models and loaders that the export tests share; as a script, an export that can be killed.

python export_models.py TARGET BATCHES_BEFORE_KILL [PART PARTS]
"""

from __future__ import annotations

import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

IDS = [f"s{i:02d}" for i in range(22)]


class Fusion(nn.Module):
    """Concatenates; with `hidden`, there is a nonlinearity before the classifier."""

    def __init__(self, width: int, c: int, hidden: bool, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)
        self.hidden = nn.Sequential(nn.Linear(width, 9), nn.ReLU()) if hidden else nn.Identity()
        self.fc = nn.Linear(9 if hidden else width, c)

    def forward(self, *parts: Any) -> Any:
        return self.fc(self.hidden(self.drop(torch.cat(parts, dim=1))))


class TwoTower(nn.Module):
    """Image and text, late fusion, a head for each."""

    def __init__(self, c: int = 4, hidden: bool = False, p: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh())
        self.text_encoder = nn.Sequential(nn.Linear(4, 3), nn.Dropout(p))
        self.image_head, self.text_head = nn.Linear(5, c), nn.Linear(3, c)
        self.fusion = Fusion(8, c, hidden, p)

    def forward(self, image: Any, text: Any) -> Any:
        z_image, z_text = self.image_encoder(image), self.text_encoder(text)
        self.image_head(z_image), self.text_head(z_text)
        return self.fusion(z_image, z_text)


class Output(OrderedDict):
    """As transformers returns: a mapping whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


FEATURES = {"image": "image_encoder", "text": "text_encoder"}
HEADS = {"image": "image_head", "text": "text_head"}


def data(n: int = 22) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(22, 6, generator=generator)[:n],
        "text": torch.randn(22, 4, generator=generator)[:n],
        "label": torch.arange(n) % 4,
        "id": IDS[:n],
    }


class Samples(torch.utils.data.Dataset):
    """The same, sample by sample; the keys that are given."""

    def __init__(self, n: int = 22, keys: tuple[str, ...] = ("image", "text", "label", "id")):
        self.data, self.keys, self.n = data(n), keys, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: self.data[key][row] for key in self.keys}


def loader(n: int = 22, batch_size: int = 5, **options: Any) -> Any:
    return torch.utils.data.DataLoader(Samples(n), batch_size, **options)


def computed(model: nn.Module, n: int = 22) -> dict[str, Any]:
    """What a plain forward pass in eval mode computes, as arrays."""
    model.eval()
    x = data(n)
    with torch.no_grad():
        image, text = model.image_encoder(x["image"]), model.text_encoder(x["text"])
        return {
            "/features/image": image.numpy(),
            "/features/text": text.numpy(),
            "/unimodal_logits/image": model.image_head(image).numpy(),
            "/unimodal_logits/text": model.text_head(text).numpy(),
            "/multimodal_logits": model(x["image"], x["text"]).numpy(),
        }


EXPORT = {
    "features": FEATURES,
    "unimodal_logits": HEADS,
    "classifier": "fusion.fc",
    "coalitions": True,
    "dropout_passes": 3,
    "ids": "id",
    "labels": "label",
    "metadata": {"name": lambda batch: [f"the {name}" for name in batch["id"]]},
    "class_names": ["a", "b", "c", "d"],
    "seed": 7,
}
"""Everything at once."""


def dying(batches: Any, after: int) -> Iterator[Any]:
    """Kill this process, without a chance to tidy up, when `after` batches have been yielded."""
    for index, batch in enumerate(batches):
        if index == after:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch


def main() -> None:
    from mmselect.torch import export_pool
    from mmselect.torch.export import shards

    target, after, *part = Path(sys.argv[1]), *map(int, sys.argv[2:])
    rank, parts = part or (0, 1)
    rows = range(rank * 22 // parts, (rank + 1) * 22 // parts)
    batches = torch.utils.data.DataLoader(torch.utils.data.Subset(Samples(), rows), 5)
    shards.SHARD_SECONDS = 0
    options = {"n": len(rows), "part": (rank, parts), **EXPORT}
    export_pool(TwoTower(), dying(batches, after), target, **options)


if __name__ == "__main__":
    main()
