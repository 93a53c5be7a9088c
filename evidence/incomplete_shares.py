"""What share of the picks lacks a modality, on pools in which 30 % of the samples do.

    python evidence/incomplete_shares.py emoji=mmselect/data/emoji.h5 stamps=stamps.h5 made

Of each pool two are made: one in which 30 % of the samples, drawn at random, lack one modality or
(of three) two, and one in which those of 30 % of the classes do. A linear head is fitted to a tenth
of the samples, as ``replay`` does, with absent blocks of centred features 0. ``made`` stands for
arrays of three modalities in 60 clusters. Prints a table: percent of the first 100 picks.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import mmselect
from mmselect.replay.heads import by_modality, choose_penalties, fit_heads, logits, scales

DEALT = ("facility", "coreset", "badge", "bmmal", "kmeans", "mmcsal", "activeft")
SCORES = ("random", "margin", "entropy", "smem", "contribution")
SHARE, BUDGET = 0.3, 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Count picks that lack a modality.")
    parser.add_argument("pools", nargs="+", metavar="NAME=POOL|made")
    given = parser.parse_args()
    names = (*DEALT, *SCORES)
    print("| pool | absent | candidates |", " | ".join(f"`{name}`" for name in names), "|")
    print("|---|---|---" + "|---" * len(names) + "|")
    for pair in given.pools:
        name, _, path = pair.partition("=")
        features, labels = read(path) if path else made()
        for how in ("at random", "by class"):
            rng = np.random.default_rng(0)
            with tempfile.TemporaryDirectory() as folder:
                pool = Path(folder) / "pool.h5"
                lacks = write(pool, features, labels, masks(labels, sorted(features), how, rng))
                shares = [picked(pool, strategy, lacks) for strategy in names]
                everyone = lacks[np.arange(len(lacks)) % 10 > 0].mean()
            cells = [f"{100 * share:.0f}" for share in (everyone, *shares)]
            print(f"| {name} | {how} | {' | '.join(cells)} |", flush=True)


def read(path: str) -> tuple[dict[str, Any], Any]:
    """Features and labels of a pool, in random order."""
    with mmselect.open_pool(path) as pool:
        order = np.random.default_rng(1).permutation(pool.n)
        names = pool.names("/features")
        features = {m: pool.columns[f"/features/{m}"][:][order].astype("f4") for m in names}
        return features, pool.columns["/label"][:][order]


def made(n: int = 4000) -> tuple[dict[str, Any], Any]:
    """Features of three modalities, positive parts of clusters in a latent space, and labels."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 60, n)
    latent = rng.normal(size=(60, 48))[labels]
    features = {}
    for name, noise in {"audio": 1.5, "image": 1.0, "text": 1.2}.items():
        view = rng.normal(size=(48, 64)) / 7
        features[name] = np.maximum((latent + noise * rng.normal(size=(n, 48))) @ view, 0)
    return {name: x.astype("f4") for name, x in features.items()}, labels


def masks(labels: Any, names: list[str], how: str, rng: Any) -> dict[str, Any]:
    """Who has each modality: those that lack some keep at least one."""
    n, classes = len(labels), np.unique(labels)
    lacks = rng.random(n) < SHARE
    if how == "by class":
        lacks = np.isin(labels, rng.permutation(classes)[: round(SHARE * len(classes))])
    kept = rng.integers(0, len(names), n)
    also = rng.random((n, len(names))) < (len(names) > 2) / 2
    has = also | (np.arange(len(names)) == kept[:, None])
    every = has.all(axis=1)
    has[every, (kept[every] + 1) % len(names)] = False
    return {name: has[:, m] | ~lacks for m, name in enumerate(names)}


def write(path: Path, features: Any, labels: Any, present: Any) -> Any:
    """Write a pool with heads, nan where something is absent; which samples lack something."""
    n, names = len(labels), sorted(features)
    labeled, classes = np.arange(n) % 10 == 0, int(labels.max()) + 1
    centred = {m: x - x[present[m]].mean(axis=0) for m, x in features.items()}
    centred = {m: np.where(present[m][:, None], x, 0).astype("f4") for m, x in centred.items()}
    rows, scale = np.flatnonzero(labeled), scales(centred, present)
    penalties = choose_penalties(centred, rows, labels[rows], classes, scale, 0, present)
    heads = fit_heads(centred, rows, labels[rows], classes, penalties, scale, present=present)
    fused = heads[tuple(names)]
    absent = {m: ~present[m] for m in names}

    def poisoned(values: Any, name: str) -> Any:
        return np.where(absent[name][:, None], np.nan, values).astype("f4")

    mmselect.write_pool(
        path,
        features={m: poisoned(x, m) for m, x in centred.items()},
        unimodal_logits={m: poisoned(logits(centred, (m,), heads[(m,)]), m) for m in names},
        multimodal_logits=logits(centred, tuple(names), fused),
        classifier_weight=by_modality(centred, tuple(names), fused),
        classifier_bias=fused.bias,
        present=present,
        labels=labels,
        labeled=labeled,
    )
    return np.any(list(absent.values()), axis=0)


def picked(pool: Path, strategy: str, lacks: Any) -> float:
    """Share of the picks that lack something."""
    picks = mmselect.select(pool, strategy, BUDGET, threads=1)
    return float(lacks[picks.indices].mean())


if __name__ == "__main__":
    main()
