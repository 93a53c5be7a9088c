"""Train a model of two modalities, export it as a pool, and select with three methods.

    python -m pip install 'mmselect[torch]'
    python examples/train_and_select.py FOLDER

The emoji pool that ships with the package stands for your own data: the features of a drawing and
of a name are what the model gets, a tenth of the rows is labeled. For each method the example
labels what it picks, trains again, and prints what became of the accuracy on the test rows. One
seed says how it is done, not which method is best.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import mmselect
from mmselect.demo import EMOJI
from mmselect.torch import (
    SingleModalHeads,
    align_features,
    export_pool,
    multimodal_loss,
    self_distillation_loss,
)

BUDGET, EPOCHS, RATE, WIDTH = 150, 40, 3e-3, 64
MODALITIES = ("image", "text")


class Emoji(Dataset[dict[str, Any]]):
    """Two modalities, a label, and an id for each sample."""

    def __init__(self) -> None:
        with mmselect.open_pool(EMOJI) as pool:
            self.ids = pool.ids.text(range(pool.n))
            self.x = {m: pool.columns[f"/features/{m}"][:].astype("f4") for m in MODALITIES}
            self.labels = pool.columns["/label"][:].astype(np.int64)
            self.labeled = pool.labeled
            self.test = pool.columns["/metadata/split"][:] == b"test"
            self.class_names = [name.decode() for name in pool.constants["/class_names"]]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        about = {"id": self.ids[row], "label": self.labels[row], "labeled": self.labeled[row]}
        return {m: x[row] for m, x in self.x.items()} | about


class Model(nn.Module):
    """An encoder and a classifier per modality, a linear fusion, and the heads that SMEM asks."""

    def __init__(self, data: Emoji) -> None:
        super().__init__()
        classes = len(data.class_names)
        self.encoders = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(x.shape[1], WIDTH), nn.ReLU()) for m, x in data.x.items()}
        )
        self.classifiers = nn.ModuleDict({m: nn.Linear(WIDTH, classes) for m in MODALITIES})
        self.fusion = nn.Linear(len(MODALITIES) * WIDTH, classes)
        self.heads = SingleModalHeads(dict.fromkeys(MODALITIES, WIDTH), classes)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Any]:
        """Logits of the fusion, of the classifiers, and of the heads."""
        z = {"image": self.encoders["image"](image), "text": self.encoders["text"](text)}
        fused = self.fusion(torch.cat([z[m] for m in MODALITIES], dim=1))
        own = {m: self.classifiers[m](z[m]) for m in MODALITIES}
        return {"fused": fused, "own": own, "heads": self.heads(z)}


def train(data: Emoji, rows: np.ndarray, seed: int = 0) -> Model:
    """Train on labeled rows: BMMAL's loss for the model, SMEM's for the heads beside it."""
    torch.manual_seed(seed)
    model = Model(data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    loader = DataLoader(Subset(data, rows.tolist()), batch_size=64, shuffle=True)
    for _ in range(EPOCHS):
        for batch in loader:
            out, y = model(batch["image"], batch["text"]), batch["label"]
            loss = multimodal_loss(out["own"], out["fused"], y)
            loss = loss + self_distillation_loss(out["heads"], out["fused"], y, kind="softmax")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Model, data: Emoji, rows: np.ndarray) -> float:
    """Share of the rows that the fused logits get right."""
    out = model(*(torch.from_numpy(data.x[m][rows]) for m in MODALITIES))
    return float((out["fused"].argmax(dim=1).numpy() == data.labels[rows]).mean())


def export(model: Model, data: Emoji, path: Path) -> None:
    """Write what the model makes of every sample, in the rows' order."""
    export_pool(
        model,
        DataLoader(data, batch_size=256),
        path,
        features={m: f"encoders.{m}" for m in MODALITIES},
        unimodal_logits={m: f"heads.{m}" for m in MODALITIES},
        multimodal_logits="fusion",
        classifier="fusion",
        ids="id",
        labels="label",
        labeled="labeled",
        class_names=data.class_names,
    )


def main(arguments: Sequence[str]) -> None:
    """Train, export, select, train again."""
    folder = Path(arguments[0] if arguments else "mmselect-example")
    folder.mkdir(parents=True, exist_ok=True)
    data = Emoji()
    labeled = np.flatnonzero(data.labeled)
    model = train(data, labeled)
    print(f"{len(data):,} samples, {len(labeled)} labeled, {data.test.sum()} kept for the test")
    print(f"right on the test rows: {accuracy(model, data, data.test):.1%}")

    pool, aligned = folder / "pool.h5", folder / "aligned.h5"
    export(model, data, pool)
    gap = align_features(pool, aligned)  # mmcsal compares modalities: give them one space
    print(f"wrote {pool}, and {aligned} with a smaller modality gap:")
    print(f"  {gap.before[0]['gap']:.3f} → {gap.after[0]['gap']:.3f}\n")

    candidates = [data.ids[row] for row in np.flatnonzero(~data.test & ~data.labeled)]
    for name, source in {"smem": pool, "bmmal": pool, "mmcsal": aligned, "random": pool}.items():
        picks = mmselect.select(source, name, BUDGET, among=candidates)
        wrong = 1 - accuracy(model, data, picks.indices)
        again = train(data, np.concatenate([labeled, picks.indices]))
        classes = len(np.unique(data.labels[picks.indices]))
        print(
            f"{name:<7} {classes} classes among {BUDGET} picks, model wrong on {wrong:.0%}; "
            f"trained with them: {accuracy(again, data, data.test):.1%}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
