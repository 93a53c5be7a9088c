"""Print what a labeled pool holds, and how hard its classes are for linear heads.

For each modality and for all of them side by side a logistic regression is fitted on all training
rows, and on a tenth of them drawn with five seeds; its accuracy on the test rows is printed, with
the mean of the per-class accuracies in brackets. The strength of the penalty is the best of four
by 5-fold cross-validation on the rows that the head is fitted on. The split is the column
``/metadata/split``.

Usage
-----
::

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/pool_difficulty.py mfeat.h5 stamps.h5 clipart.h5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pool_building import Array, Arrays, read_pool, sha256
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from threadpoolctl import threadpool_limits

STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # inverse: C of scikit-learn
SEEDS = (0, 1, 2, 3, 4)
SHARE = 0.1  # of the training rows


def accuracies(features: Array, label: Array, rows: Array, test: Array) -> tuple[float, float]:
    """Percent of the test rows, and mean over classes, that a head fitted on `rows` gets right."""
    head = GridSearchCV(
        LogisticRegression(max_iter=2000),
        {"C": STRENGTHS},
        cv=KFold(5, shuffle=True, random_state=0),
    ).fit(features[rows], label[rows])
    hit = head.predict(features[test]) == label[test]
    per_class = [hit[label[test] == k].mean() for k in np.unique(label[test])]
    return 100 * float(hit.mean()), 100 * float(np.mean(per_class))


def draw_tenth(train: Array, label: Array, seed: int) -> Array:
    """One training row of every class, and others drawn uniformly."""
    order = np.random.default_rng(seed).permutation(train)
    _, first = np.unique(label[order], return_index=True)
    others = np.delete(order, first)
    return np.concatenate([order[first], others[: max(0, int(SHARE * len(train)) - len(first))]])


def print_shape(pool: Arrays, names: Sequence[str]) -> None:
    label, test = pool["label"], pool["metadata/split"] == "test"
    size, class_names = np.bincount(label), pool["class_names"]
    print(f"rows {len(label)}, train {(~test).sum()}, test {test.sum()}, classes {len(size)}")
    print(f"class sizes {size.min()} to {size.max()}, median {np.median(size):g}")
    largest = f"{class_names[size.argmax()]}, {100 * size.max() / len(label):.1f} % of the rows"
    print(f"largest class {largest}")
    print("classes: " + ", ".join(f"{class_names[k]} {size[k]}" for k in (-size).argsort()))
    for name in names:
        features = pool[f"features/{name}"]
        zero = int((features == 0).all(axis=1).sum())
        print(f"{name}: {features.shape[1]} features, {features.dtype}, zero rows {zero}")


def print_accuracies(pool: Arrays, names: Sequence[str]) -> None:
    label, is_test = pool["label"], pool["metadata/split"] == "test"
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    features = {name: pool[f"features/{name}"].astype(np.float64) for name in names}
    features["all"] = np.hstack([features[name] for name in names])
    tenths = [draw_tenth(train, label, seed) for seed in SEEDS]
    print(f"head: on all {len(train)} training rows; on {len(tenths[0])}, {len(SEEDS)} seeds")
    for name, matrix in features.items():
        full = accuracies(matrix, label, train, test)
        few = np.array([accuracies(matrix, label, rows, test) for rows in tenths])
        mean, spread = few.mean(axis=0), few.std(axis=0, ddof=1)
        print(f"  {name}: {full[0]:.1f} ({full[1]:.1f}); ", end="")
        print(f"{mean[0]:.1f} ± {spread[0]:.1f} ({mean[1]:.1f} ± {spread[1]:.1f})", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Say how hard labeled pools are for linear heads.")
    parser.add_argument("pools", type=Path, nargs="+", metavar="POOL")
    for path in parser.parse_args().pools:
        pool = read_pool(path)
        names = sorted(
            name.removeprefix("features/") for name in pool if name.startswith("features/")
        )
        print(f"{path.name}: {path.stat().st_size} bytes, SHA-256 {sha256(path)}")
        print_shape(pool, names)
        with threadpool_limits(1):
            print_accuracies(pool, names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
