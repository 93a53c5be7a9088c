"""Draw first batches on the emoji pool: ``docs/images/coldstart.png``, and the numbers beside it.

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/plot_coldstart.py

Every label is hidden from the strategies. The picture shows the picks on the two main directions of
the concatenated features. The numbers: how well the picks cover the pool (mean over the samples of
the largest mean cosine to a pick, features centred), how many classes are among them, and what the
provenance of the parametric methods says.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

import mmselect
from mmselect.demo import EMOJI

mpl.use("Agg")
import matplotlib.pyplot as plt

TARGET = Path(__file__).parent.parent / "docs" / "images" / "coldstart.png"
BUDGET, SEEDS, SHOWN = 150, 5, ("random", "mmcsal", "facility", "coreset")
STRATEGIES = ("random", "coreset", "activeft", "mmcsal", "kmeans", "facility")


def unit_features(pool: mmselect.Pool) -> np.ndarray:
    """Centred, normalised features of both modalities, side by side: products are mean cosines."""
    parts = []
    for name in pool.names("/features"):
        z = pool.columns[f"/features/{name}"][:].astype(np.float64)
        z -= z.mean(axis=0)
        parts.append(z / np.linalg.norm(z, axis=1, keepdims=True) / np.sqrt(2))
    return np.hstack(parts)


def first_batch(pool: mmselect.Pool, name: str, budget: int, seed: int) -> mmselect.Selection:
    """Select with nothing labeled."""
    return mmselect.select(pool, name, budget, seed=seed, ignore_mask=True)


def main() -> None:
    """Compute, print, draw."""
    with mmselect.open_pool(EMOJI) as pool:
        x, labels = unit_features(pool), pool.columns["/label"][:]
        print(f"budget {BUDGET} of {pool.n:,}, mean ± standard deviation over {SEEDS} seeds")
        shown = {}
        for name in STRATEGIES:
            picks = [first_batch(pool, name, BUDGET, seed) for seed in range(SEEDS)]
            shown[name] = picks[0].indices
            cover = [float((x @ x[p.indices].T).max(axis=1).mean()) for p in picks]
            classes = [len(np.unique(labels[p.indices])) for p in picks]
            print(
                f"{name:<9} cover {np.mean(cover):.3f} ± {np.std(cover):.3f}, "
                f"{np.mean(classes):.1f} ± {np.std(classes):.1f} of {pool.sizes['c']} classes"
            )
        print("\nmmcsal: budget, rate, picks that are not initial samples, parameters without any")
        for budget in (38, 76, 190, 381):
            for rate in (1e-2, 1e-3):
                made = mmselect.select(
                    pool, "mmcsal", budget, ignore_mask=True, parameters={"rate": rate}
                ).provenance
                moved, empty = made["picks_not_initial"], made["parameters_without_samples"]
                shares = f"{100 * moved / budget:.0f} %  {100 * empty / budget:.1f} %"
                print(f"{budget:>4} {rate:g}  {shares}")
        draw(x, shown)


def draw(x: np.ndarray, shown: dict[str, np.ndarray]) -> None:
    """Draw the picks of four strategies on two directions."""
    flat = x @ np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:2].T
    figure, panels = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained", sharey=True)
    for axes, name in zip(panels, SHOWN, strict=True):
        axes.scatter(*flat.T, s=3, c="#d5d8db", linewidths=0)
        axes.scatter(*flat[shown[name]].T, s=12, c="#2f6fb0", linewidths=0)
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.savefig(TARGET, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
