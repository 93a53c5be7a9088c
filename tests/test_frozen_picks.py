"""The picks of every strategy on two small pools, frozen: a change of picks is seen, and said.

Where a change is meant, write the table anew and say so in the CHANGELOG::

    python tests/test_frozen_picks.py
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WITHOUT_EXTRAS

import mmselect
from mmselect.demo import EMOJI
from mmselect.strategies import registry

TABLE = Path(__file__).with_suffix(".json")
BUDGET = 40
VARIANTS: dict[str, dict[str, Any]] = {
    "coreset unit=true": {"unit": True},
    "facility doubt=none": {"doubt": "none"},
    "facility form=sparse": {"doubt": "none", "form": "sparse"},
    "facility form=sparse doubt=auto": {"form": "sparse"},
    "kmeans unit=true": {"unit": True},
    "kmeans init=uniform": {"init": "uniform"},
    "activeft loss=code": {"loss": "code"},
    "mmcsal solver=lbfgs": {"solver": "lbfgs"},
    "smem preset=jsd": {"preset": "jsd"},
    "alfa-mix cap=0.03125": {"cap": 0.03125},
    "gcnal variant=core": {"variant": "core"},
    "typiclust unit=true": {"unit": True},
}
SHORT = {"epochs": 1, "steps": 2}
"""Training amplifies rounding: only after a few steps are picks the same on every processor."""

NETWORKS = {f"{name} epochs=1 steps=2": SHORT for name in ("learning-loss", "vaal", "sraal")}
NAMES = [*WITHOUT_EXTRAS, "column:loss", *VARIANTS]


def write_three_modalities(path: Path) -> Path:
    """Write a pool of three modalities in which every strategy can run; values fit in float16."""
    rng = np.random.default_rng(7)
    n, c, d = 400, 6, 12
    names = ("audio", "image", "text")

    def draw(*shape: int, scale: float = 1.0) -> Any:
        return (np.round(rng.normal(scale=scale, size=shape) * 64) / 64).astype(np.float32)

    coalitions = ["none", *names, "audio+image", "audio+text", "image+text"]
    mmselect.write_pool(
        path,
        ids=[f"s{i:03d}" for i in range(n)],
        features={name: draw(n, d) for name in names},
        unimodal_logits={name: draw(n, c, scale=3) for name in names},
        multimodal_logits=draw(n, c, scale=3),
        coalition_logits={name: draw(n, c, scale=3) for name in coalitions},
        dropout_logits=draw(n, 4, c, scale=2),
        labels=rng.integers(0, c, n),
        labeled=np.arange(n) % 9 == 0,
        metadata={"loss": rng.random(n)},
    )
    return path


def digest(pool: Path, name: str) -> dict[str, Any] | str:
    """Digest of the ids in pick order, with the first few for people; or why it cannot run."""
    parameters = (VARIANTS | NETWORKS).get(name)
    try:
        picks = mmselect.select(
            pool, budget=BUDGET, strategy=name.split()[0], parameters=parameters, seed=3
        )
    except mmselect.MmselectError as error:
        return type(error).__name__
    whole = hashlib.sha256("\n".join(picks.ids).encode()).hexdigest()
    return {"first": picks.ids[:3], "sha256": whole[:16]}


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    three = tmp_path_factory.mktemp("frozen") / "three.h5"
    return {"emoji": Path(EMOJI), "three": write_three_modalities(three)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", ["emoji", "three"])
def test_picks_are_those_of_the_table(pools: dict[str, Path], pool: str, name: str) -> None:
    assert digest(pools[pool], name) == json.loads(TABLE.read_text())[pool].get(name)


@pytest.mark.torch
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("pool", ["emoji", "three"])
def test_picks_of_networks_too(pools: dict[str, Path], pool: str, name: str) -> None:
    pytest.importorskip("torch")
    test_picks_are_those_of_the_table(pools, pool, name)


def test_no_strategy_is_left_out() -> None:
    assert {name.split()[0] for name in [*NAMES, *NETWORKS]} == {*registry.BUILT_IN} - {
        "column:NAME"
    } | {"column:loss"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pools = {
            "emoji": Path(EMOJI),
            "three": write_three_modalities(Path(folder) / "three.h5"),
        }
        table = {
            p: {name: digest(path, name) for name in [*NAMES, *NETWORKS]}
            for p, path in pools.items()
        }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
