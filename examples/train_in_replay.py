"""Train two small encoders in a replay: `mmselect replay --train` calls this again and again.

    python -m pip install 'mmselect[torch]'
    mmselect demo && cd mmselect-demo
    mmselect replay emoji.h5 -s facility,smem,random --rounds 3 --seeds 2 --jobs 2 --runs trained \
        --train 'python train_in_replay.py {labeled} {pool} {out} --seed {seed}'

The emoji pool that ships with the package stands for your own data: the features of a drawing and
of a name are what the encoders get. No label is read but those in ``{labeled}``, and what is
written says the same of training and test samples: which are which is not known here.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mmselect
from mmselect.demo import EMOJI
from mmselect.torch import (
    SingleModalHeads,
    export_pool,
    multimodal_loss,
    self_distillation_loss,
)

STEPS, RATE, WIDTH = 100, 3e-3, 64
MODALITIES = ("image", "text")


class Model(nn.Module):
    """An encoder and a classifier per modality, a linear fusion, and the heads that SMEM asks."""

    def __init__(self, widths: dict[str, int], classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(d, WIDTH), nn.ReLU()) for m, d in widths.items()}
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


def my_data() -> tuple[dict[str, int], dict[str, Tensor], int]:
    """Row of each id, the features by modality, and the number of classes: no label."""
    with mmselect.open_pool(EMOJI) as pool:
        place = {name: row for row, name in enumerate(pool.ids.text(range(pool.n)))}
        x = {m: pool.columns[f"/features/{m}"][:].astype(np.float32) for m in MODALITIES}
        return place, {m: torch.from_numpy(v) for m, v in x.items()}, pool.sizes["c"]


def train(x: dict[str, Tensor], rows: Tensor, y: Tensor, classes: int, seed: int) -> Model:
    """Train on the labeled rows: BMMAL's loss for the model, SMEM's for the heads beside it."""
    torch.manual_seed(seed)
    model = Model({m: v.shape[1] for m, v in x.items()}, classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    for _ in range(STEPS):
        some = torch.randint(len(rows), (64,))
        out = model(*(x[m][rows[some]] for m in MODALITIES))
        loss = multimodal_loss(out["own"], out["fused"], y[some])
        loss = loss + self_distillation_loss(out["heads"], out["fused"], y[some], kind="softmax")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on what is labeled, and write what the model makes of every sample."""
    parser = argparse.ArgumentParser()
    for name in ("labeled", "pool", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as many trainings run at a time as --jobs says

    place, x, classes = my_data()
    with asked.labeled.open(newline="") as file:
        labeled = [(place[row["id"]], int(row["label"])) for row in csv.DictReader(file)]
    rows, y = torch.tensor(labeled).unbind(dim=1)
    model = train(x, rows, y, classes, asked.seed)
    print(f"trained on {len(rows)} samples")  # into the log of this call

    with asked.pool.open(newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    samples = [{"id": name, **{m: v[place[name]] for m, v in x.items()}} for name in ids]
    export_pool(
        model,
        DataLoader(samples, batch_size=256),
        asked.out,
        features={m: f"encoders.{m}" for m in MODALITIES},
        unimodal_logits={m: f"heads.{m}" for m in MODALITIES},
        multimodal_logits="fusion",
        classifier="fusion",
        ids="id",
    )


if __name__ == "__main__":
    main()
