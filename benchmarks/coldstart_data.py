"""Features for the cold-start benchmarks: two generators, so that none flatters unseen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clustered(
    n: int, widths: tuple[int, ...] = (512, 512), *, classes: int = 200, seed: int = 0
) -> list[NDArray[np.float32]]:
    """Features like an encoder's: skewed classes, groups inside them, a spectrum that decays.

    A sample has one latent (class + group + its own part) that every modality sees through its own
    map, plus noise of its own and a mean of its own, so that there is a modality gap. Norms vary.
    """
    rng = np.random.default_rng(seed)
    latent = 96
    shares = 1 / np.arange(1, classes + 1) ** 0.7
    label = rng.choice(classes, n, p=shares / shares.sum())
    group = label * 8 + rng.integers(0, 8, n)
    scale = (1 / np.sqrt(1 + np.arange(latent) / 6)).astype(np.float32)
    centre = rng.standard_normal((classes, latent), dtype=np.float32)
    inner = rng.standard_normal((classes * 8, latent), dtype=np.float32)
    features = []
    for width in widths:
        own = rng.standard_normal((n, latent), dtype=np.float32)
        z = (centre[label] + 0.7 * inner[group] + 0.6 * own) * scale
        mixing = rng.standard_normal((latent, width), dtype=np.float32) / np.float32(width**0.5)
        x = z @ mixing
        x += 0.6 * rng.standard_normal(width, dtype=np.float32) / np.float32(width**0.5)
        spread = np.float32(0.35 * np.sqrt((z**2).sum(1).mean() / width))
        x += spread * rng.standard_normal((n, width), dtype=np.float32)
        x *= rng.lognormal(0.0, 0.3, (n, 1)).astype(np.float32)
        features.append(x)
    return features


def realistic(
    n: int, widths: tuple[int, ...] = (512, 512), *, classes: int = 200, seed: int = 0
) -> list[NDArray[np.float32]]:
    """ReLU features of class clusters in a 96-dimensional latent space, with noise in every width.

    Harder than :func:`clustered` for sketches: the variance does not lie in a few directions.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    centre = rng.standard_normal((classes, 96), dtype=np.float32)
    features = []
    for width in widths:
        mixing = rng.standard_normal((96, width), dtype=np.float32) / np.float32(10)
        latent = centre[label] + np.float32(1.1) * rng.standard_normal((n, 96), dtype=np.float32)
        noise = np.float32(0.2) * rng.standard_normal((n, width), dtype=np.float32)
        features.append(np.maximum(latent @ mixing + noise, 0))
    return features


DATA = {"own": clustered, "realistic": realistic}
