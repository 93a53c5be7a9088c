"""A trainer of one moment, for the tests: nearest class means, in one process of NumPy and h5py.

    python tiny_trainer.py DATA LABELED POOL OUT SEED [--noise] [--dropout] [--bare] [--fail HOW]

DATA is an ``.npz`` of ids and features, as a user has them; no label is in it. Each call leaves a
line in ``DATA.calls``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import h5py
import numpy as np

CLASSES = 4


def logits(z: np.ndarray, rows: list[int], labels: np.ndarray) -> np.ndarray:
    """Minus the squared distance to the mean of each class; of those without a label -20."""
    f = np.full((len(z), CLASSES), -20.0, "f4")
    for c in np.unique(labels):
        f[:, c] = -0.5 * np.square(z - z[rows][labels == c].mean(axis=0)).sum(axis=1)
    return f


def read(place: str) -> list[dict[str, str]]:
    with Path(place).open(newline="") as file:
        return list(csv.DictReader(file))


def main(data: str, labeled: str, pool: str, out: str, seed: str, *more: str) -> None:
    with Path(f"{data}.calls").open("a+") as log:
        log.write(f"{labeled}\n")
        log.seek(0)
        calls = len(log.readlines())
    fail = more[more.index("--fail") + 1] if "--fail" in more else ""
    if fail == "exit":
        sys.exit("no GPU is free")
    if fail == "silent":
        return
    with np.load(data) as known:
        place = {name: row for row, name in enumerate(known["ids"].tolist())}
        z = {m: known[m] for m in sorted(known) if m != "ids"}
    rows = read(labeled)
    labels = np.array([int(row["label"]) for row in rows])
    at = [place[row["id"]] for row in rows]
    ids = [row["id"] for row in read(pool)][: -1 if fail == "missing" else None]
    order = [place[name] for name in ids]
    f = {m: logits(x, at, labels)[order] for m, x in z.items()}
    # Of each call another, but the same in each run of the tests: by luck, two do not differ.
    noise = np.random.default_rng([int(seed), calls] if "--noise" in more else int(seed))
    fused = sum(f.values()) + 3 * noise.standard_normal((len(ids), CLASSES))
    if fail == "nan":
        fused[3] = np.nan
    if fail == "garbage":
        Path(out).write_bytes(b"not a pool at all")
        return
    with h5py.File(out, "w") as file:
        file.attrs.update(format="mmselect-pool", format_version="1.1")
        file["id"] = ids
        file["multimodal_logits"] = fused[:, : 3 if fail == "classes" else None].astype("f4")
        for m in f if "--bare" not in more and fail != "classes" else ():
            file[f"unimodal_logits/{m}"], file[f"features/{m}"] = f[m], z[m][order]
        if "--dropout" in more:
            draws = noise.standard_normal((len(ids), 3, CLASSES))
            file["dropout_logits"] = (fused[:, None] + draws).astype("f4")


if __name__ == "__main__":
    main(*sys.argv[1:])
