"""Active learning with networks that are trained from scratch in every round, on real pools.

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_trained.py emoji=mmselect/data/emoji.h5 mfeat=mfeat.h5 ...

The second half of ``docs/evidence.md``: pools, splits, starts, regimes and seeds are those of
``build_evidence.py``, but what learns is a network with an encoder per modality (``stacked.py``),
trained with each of two losses. Methods that read features get those that the network has just
learned; those that cover also the pool's own, which do not move. Rounds are kept in
``docs/evidence/trained-*.csv``; a file that is there is not played again. ``--twice SETTING`` plays
one setting, such as ``emoji-few-fused``, with twice the steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from build_evidence import DOCS, REGIMES, ROUNDS, fill
from numpy.typing import NDArray
from stacked import LOSSES, STEPS, Network, Outputs, linear_heads, numbers, outputs, train
from torch import Tensor
from trained_tables import tables

import mmselect
from mmselect.option import parse_budget
from mmselect.output.emitting import emit
from mmselect.output.tables import as_csv
from mmselect.pool.reading import open_pool
from mmselect.replay import linear
from mmselect.replay.data import Data, load, part
from mmselect.replay.heads import UNSEEN, Features, scales
from mmselect.replay.measures import measure
from mmselect.replay.rounds import parse_strategy

LEARNED, STORED = "learned", "stored"
COVERING = ("coreset", "facility:doubt=none", "facility:doubt=fused+heads")


class Player(NamedTuple):
    """A strategy, and which features it gets."""

    strategy: str
    features: str = LEARNED


PLAYERS = (
    *(Player(name) for name in ("random", "entropy", "margin", "deepfool", "smem")),
    *(Player(name) for name in ("smem:spread=d2", "badge", "bmmal", "alfa-mix")),
    Player("facility:doubt=fused", STORED),
    *(Player(name, kind) for kind in (STORED, LEARNED) for name in COVERING),
)


class Setting(NamedTuple):
    """What is played: a pool, how many labels, how the networks are trained."""

    pool: str
    regime: str
    loss: str
    steps: int = STEPS

    @property
    def name(self) -> str:
        """Name the file of its rounds."""
        longer = [f"x{self.steps // STEPS}"] if self.steps != STEPS else []
        return "-".join([self.pool, self.regime, self.loss, *longer])


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay with networks trained in every round.")
    parser.add_argument("pools", nargs="*", metavar="NAME=POOL")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--twice", action="append", default=[], metavar="POOL-REGIME-LOSS")
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = dict(pair.split("=", 1) for pair in given.pools)
    asked = [Setting(p, r, loss) for r in REGIMES for loss in LOSSES for p in paths]
    longer = [Setting(*name.split("-"), 2 * STEPS) for name in given.twice]
    for setting in [*asked, *longer]:
        place = DOCS / "evidence" / f"trained-{setting.name}.csv"
        if not place.exists():
            began = time.process_time()
            with open_pool(paths[setting.pool]) as pool:
                rows = play(load(pool), setting, given.seeds)
            emit(as_csv({name: [row[name] for row in rows] for name in rows[0]}), place)
            print(f"{setting.name}: {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
    for name, lines in tables(DOCS / "evidence"):
        fill(f"evidence trained {name}", "\n".join(lines))


class Ground(NamedTuple):
    """What all networks of a pool share: samples to pick from, and samples to test on."""

    stored: Features
    inputs: dict[str, Tensor]
    labels: NDArray[np.int64]
    held_out: dict[str, Tensor]
    truth: NDArray[np.int64]
    classes: int


def ground(data: Data) -> Ground:
    """Part the samples by the pool's own split; networks see each modality at a common scale."""
    train_rows, test_rows = part(data, 0)
    stored = {m: data.features[m][train_rows] for m in sorted(data.features)}
    scale = scales(stored)
    inputs, held_out = (
        {m: torch.from_numpy(data.features[m][rows] * np.float32(scale[m])) for m in stored}
        for rows in (train_rows, test_rows)
    )
    labels, truth = data.labels[train_rows], data.labels[test_rows]
    return Ground(stored, inputs, labels, held_out, truth, data.classes)


def play(data: Data, setting: Setting, seeds: int) -> list[dict[str, Any]]:
    """Play every strategy with every seed; give the measures of all rounds.

    Strategies that hold the same labels with the same seed have the same network: it is trained
    once.
    """
    shared = ground(data)
    k = parse_budget(REGIMES[setting.regime], len(shared.labels))
    starts = [pick_first(shared, k, seed) for seed in range(seeds)]
    labeled = {(player, seed): starts[seed] for player in PLAYERS for seed in range(seeds)}
    found: list[dict[str, Any]] = []
    for number in range(ROUNDS + 1):
        holders: dict[tuple[int, bytes], list[Player]] = {}
        for (player, seed), rows in labeled.items():
            holders.setdefault((seed, np.sort(rows).tobytes()), []).append(player)
        sets = [np.frombuffer(rows, np.intp) for _, rows in holders]
        own = [derived(seed, number) for seed, _ in holders]
        how = (setting.loss, setting.steps)
        networks = train(shared.inputs, shared.labels, shared.classes, sets, own, *how)
        for (seed, _), rows, network in zip(holders, sets, networks, strict=True):
            said = outputs(network, shared.inputs)
            measured = measures(shared, network, said, rows)
            for player in holders[seed, rows.tobytes()]:
                found.append({**player._asdict(), "seed": seed, "round": number, **measured})
                if number < ROUNDS:
                    arrays = seen(shared, player, network, said, rows)
                    picks = pick(player, k, derived(seed, number + 1), arrays)
                    labeled[player, seed] = np.concatenate([labeled[player, seed], picks])
    order = {tuple(player): i for i, player in enumerate(PLAYERS)}
    found.sort(key=lambda row: (order[row["strategy"], row["features"]], row["seed"], row["round"]))
    return found


def derived(seed: int, number: int) -> int:
    """Seed of one round, as in a replay: the random starts are the same as there."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def pick_first(shared: Ground, k: int, seed: int) -> NDArray[np.intp]:
    return pick(Player("random", STORED), k, derived(seed, 0), {"features": shared.stored})


def pick(player: Player, k: int, seed: int, arrays: dict[str, Any]) -> NDArray[np.intp]:
    """Select from arrays, as a user's own training loop does."""
    name, parameters, spread = parse_strategy(player.strategy)
    how = {"parameters": parameters, "spread": spread, "seed": seed, "threads": 1}
    return mmselect.select(None, name, k, **how, **arrays).indices


def seen(
    shared: Ground, player: Player, network: Network, said: Outputs, rows: NDArray[np.intp]
) -> dict[str, Any]:
    """All that a strategy gets: features, the current logits, and the labels revealed so far."""
    known = np.full(len(shared.labels), -1, np.int64)
    known[rows] = shared.labels[rows]
    arrays: dict[str, Any] = {
        "features": said.features if player.features == LEARNED else shared.stored,
        "multimodal_logits": said.fused,
        "unimodal_logits": said.heads,
        "labels": known,
        "labeled": known >= 0,
    }
    if player.features == LEARNED:
        blocks = np.split(numbers(network.fusion.weight), len(said.features), axis=1)
        arrays["classifier_weight"] = dict(zip(said.features, blocks, strict=True))
        arrays["classifier_bias"] = numbers(network.fusion.bias)
    return arrays


def measures(
    shared: Ground, network: Network, said: Outputs, rows: NDArray[np.intp]
) -> dict[str, Any]:
    """Measure a network on the test samples as a replay measures its heads.

    As there, classes without a label are ruled out. The network itself keeps what it says of them.
    """
    none = np.setdiff1d(np.arange(shared.classes), shared.labels[rows])
    heads = linear_heads(network)
    for head in heads.values():
        head.bias[none] = UNSEEN
    held_out = outputs(network, shared.held_out).features
    found = measure(linear.outputs(held_out, heads), shared.truth)
    learned = (said.fused[rows].argmax(axis=1) == shared.labels[rows]).mean()
    rounded = {name: np.nan if x is None else round(x, 6) for name, x in found.items()}
    return {"labeled": len(rows), "train_accuracy": round(float(learned), 6), **rounded}


if __name__ == "__main__":
    main()
