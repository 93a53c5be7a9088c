"""Draw what BMMAL does to the emoji pool: ``docs/images/bmmal.png``, and the numbers beside it.

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/plot_bmmal.py

Left: mean gradient norm, as BADGE sees it and rescaled by BMMAL. Right: how the contribution of the
image is spread over the pool's candidates, and over the picks of BADGE and BMMAL.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

import mmselect
from mmselect.ask import Ask
from mmselect.core.sampling.gradients import GradientPoints
from mmselect.core.sampling.points import factors
from mmselect.core.sampling.sketch import sketch, sketch_hashes
from mmselect.demo import EMOJI
from mmselect.engine import SERIAL
from mmselect.request import prepare
from mmselect.selection import batch_of
from mmselect.strategies.gradients import gradient_norms, points_of

mpl.use("Agg")
import matplotlib.pyplot as plt

TARGET = Path(__file__).parent.parent / "docs" / "images" / "bmmal.png"
BUDGET, SEEDS = 300, 20
COLOURS = {"candidates": "#9aa0a6", "badge": "#d9822b", "bmmal": "#2f6fb0"}


def main() -> None:
    """Compute, print, draw."""
    table = mmselect.score(EMOJI, "contribution")
    image = table.components["contribution.image"]
    place = {row: i for i, row in enumerate(table.indices.tolist())}
    picked: dict[str, np.ndarray] = {"candidates": image}
    for name in ("badge", "bmmal"):
        rows = [mmselect.select(EMOJI, name, BUDGET, seed=seed).indices for seed in range(SEEDS)]
        picked[name] = np.array([[image[place[row]] for row in each.tolist()] for each in rows])
    for name, values in picked.items():
        runs = np.atleast_2d(values)
        mean, led = runs.mean(axis=1), (runs > 0.5).mean(axis=1)
        print(
            f"{name:<11} mean contribution of the image {mean.mean():.3f} ± {mean.std():.3f}, "
            f"image leads in {100 * led.mean():.1f} ± {100 * led.std():.1f} %, "
            f"mean dominance {np.abs(2 * runs - 1).mean():.3f}"
        )
    with mmselect.open_pool(EMOJI) as pool:
        share = np.column_stack([image, 1 - image])
        sources = {**pool.columns, **pool.constants}
        norms = gradient_norms(sources, table.indices, share, SERIAL)
        request = prepare(pool, Ask(strategy="bmmal"))
        tell_sketch_errors(points_of(batch_of(request), balanced=True))
    draw(picked, image, dict(zip(("badge", "bmmal"), norms, strict=True)))


def tell_sketch_errors(points: GradientPoints) -> None:
    """Print the relative error of inner products and of distances for some lengths."""
    parts = factors(points, np.arange(400, 1400))
    for dim in (128, 512, 2048):
        hashes = sketch_hashes(points.widths, dim, np.random.default_rng(0))
        inner, distance = sketch_errors(parts, sketch(parts, hashes))
        print(f"sketch of length {dim}: inner products {inner:.3f}, distances {distance:.3f}")


def sketch_errors(parts: Sequence[np.ndarray], short: np.ndarray) -> tuple[float, float]:
    """Root mean square relative errors of inner products and of squared distances, over all pairs.

    Of inner products as a share of ‖g_i‖‖g_j‖; of distances over pairs that differ.
    """
    (a, h), wide = (part.astype(np.float64) for part in parts), short.astype(np.float64)
    truth, guess = (a @ a.T) * (h @ h.T), wide @ wide.T
    upper, norms = np.triu_indices(len(truth), 1), np.sqrt(np.diag(truth))
    lengths = np.maximum(np.multiply.outer(norms, norms), np.finfo(float).tiny)
    exact, near = (np.add.outer(np.diag(x), np.diag(x)) - 2 * x for x in (truth, guess))
    exact, near = exact[upper], near[upper]
    inner = ((guess - truth) / lengths)[upper]
    distance = near[exact > 0] / exact[exact > 0] - 1
    return float(np.sqrt(np.mean(inner**2))), float(np.sqrt(np.mean(distance**2)))


def draw(picked: dict[str, np.ndarray], image: np.ndarray, norms: dict[str, np.ndarray]) -> None:
    """Draw both panels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    edges = np.linspace(0, 1, 21)
    bins = np.clip(np.digitize(image, edges) - 1, 0, 19)
    for name, norm in norms.items():
        mean = np.bincount(bins, norm, 20) / np.bincount(bins, minlength=20)
        left.stairs(mean, edges, color=COLOURS[name], linewidth=2, label=name)
    left.set(
        xlabel="contribution of the image",
        ylabel="mean gradient norm",
        title="Candidates: what rescaling does to the gradients",
    )
    left.legend(frameon=False)
    for name, values in picked.items():
        counts = np.histogram(values, edges, density=True)[0]
        right.stairs(counts, edges, color=COLOURS[name], linewidth=2, label=name)
    right.set(
        xlabel="contribution of the image",
        ylabel="density",
        title=f"Candidates and {BUDGET} picks, {SEEDS} seeds",
    )
    right.legend(frameon=False)
    for axes in (left, right):
        axes.axvline(0.5, color="#cccccc", linewidth=1, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(TARGET, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
