"""Small multimodal networks, many trained at once: their weights are stacked along a leading axis.

One training loop serves all strategies and seeds of a round. The networks do not touch each other:
a loss is summed over them, and Adam works on every weight alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, one_hot

from mmselect.replay.heads import Head, View
from mmselect.torch import SingleModalHeads, multimodal_loss, self_distillation_loss

HIDDEN, WIDTH = 64, 64
"""Units of the two layers of each encoder; the second one's are the features that are learned."""

BATCH, STEPS, RATE, DECAY = 64, 100, 1e-2, 1.0
"""AdamW; the rate falls to 0 along a cosine."""

Loss: TypeAlias = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]


def fused_loss(_unimodal: Mapping[str, Tensor], fused: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the fused logits alone."""
    return cross_entropy(fused, targets)


LOSSES: dict[str, Loss] = {"multimodal": multimodal_loss, "fused": fused_loss}
"""What trains encoders and fusion: BMMAL's Eq. 1, or the loss of the fused logits alone."""


class Outputs(NamedTuple):
    """What one network says of some samples: features (n, d), logits (n, c)."""

    features: dict[str, NDArray[np.float32]]
    fused: NDArray[np.float32]
    heads: dict[str, NDArray[np.float32]]


class Network(nn.Module):
    """Two layers per modality, late fusion by a linear layer, and what listens to each modality.

    Classifiers train their encoder where the loss has a term for them; heads are on detached
    features and train nothing but themselves.
    """

    def __init__(self, sizes: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: encoder(d) for m, d in sizes.items()})
        self.classifiers = nn.ModuleDict({m: nn.Linear(WIDTH, classes) for m in sizes})
        self.fusion = nn.Linear(len(sizes) * WIDTH, classes)
        self.heads = SingleModalHeads(dict.fromkeys(sizes, WIDTH), classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Give the features of each modality, and the fused logits."""
        z = {m: encode(inputs[m]) for m, encode in self.encoders.items()}
        return z, self.fusion(torch.cat([*z.values()], dim=1))


def encoder(size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH), nn.ReLU())


class Learner(nn.Module):
    """A network and its loss, so that both are one function of the stacked weights."""

    def __init__(self, network: Network, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, inputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Give the loss of a batch, that of the heads included."""
        z, fused = self.network(inputs)
        own = {m: classify(z[m]) for m, classify in self.network.classifiers.items()}
        heads = self.network.heads(z)
        distilled = self_distillation_loss(heads, fused, targets, kind="softmax")
        return self.loss(own, fused, targets) + distilled


def train(
    inputs: Mapping[str, Tensor],
    labels: NDArray[np.int64],
    classes: int,
    rows: Sequence[NDArray[np.intp]],
    seeds: Sequence[int],
    loss: str,
    steps: int = STEPS,
) -> list[Network]:
    """Train a network from scratch on each of several sets of rows, which are equally large.

    A network's first weights and the order of its batches follow from its seed alone.

    Parameters
    ----------
    inputs : mapping of modality to (n, d) tensor
    labels : (n,) integer array
        Read at `rows` only.
    rows, seeds : sequences of one length
    loss : name in `LOSSES`
    """
    networks = [seeded(inputs, classes, seed) for seed in seeds]
    learners = [Learner(network, LOSSES[loss]) for network in networks]
    weights, _ = stack_module_state(learners)
    losses = vmap(lambda w, x, y: functional_call(learners[0], w, (x, y)))
    optimizer = torch.optim.AdamW([*weights.values()], lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.from_numpy(
        np.stack([batches(*pair, steps) for pair in zip(rows, seeds, strict=True)])
    )
    truth = torch.zeros(len(labels), dtype=torch.long)
    known = np.unique(np.concatenate(rows))
    truth[known] = torch.from_numpy(labels[known])
    for step in range(steps):
        at = order[:, step]
        optimizer.zero_grad()
        y = one_hot(truth[at], classes).float()
        losses(weights, {m: x[at] for m, x in inputs.items()}, y).sum().backward()
        optimizer.step()
        schedule.step()
    for i, learner in enumerate(learners):
        learner.load_state_dict({name: stacked[i].detach() for name, stacked in weights.items()})
    return networks


def seeded(inputs: Mapping[str, Tensor], classes: int, seed: int) -> Network:
    torch.manual_seed(seed)
    return Network({m: x.shape[1] for m, x in inputs.items()}, classes)


def batches(rows: NDArray[np.intp], seed: int, steps: int) -> NDArray[np.intp]:
    """Rows (steps, b) of each step: one shuffled epoch after the other."""
    size = min(BATCH, len(rows))
    epochs = -(-steps * size // len(rows))
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    return order[: steps * size].reshape(steps, size)


@torch.no_grad()
def outputs(network: Network, inputs: Mapping[str, Tensor]) -> Outputs:
    """Run a network on samples."""
    z, fused = network(inputs)
    heads = {m: x.numpy() for m, x in network.heads(z).items()}
    return Outputs({m: x.numpy() for m, x in z.items()}, fused.numpy(), heads)


def linear_heads(network: Network) -> dict[View, Head]:
    """Last layers of a network as a replay measures them: the fused one first, then each head."""
    modalities = tuple(network.encoders)
    layers = {modalities: network.fusion, **{(m,): getattr(network.heads, m) for m in modalities}}
    return {view: Head(numbers(x.weight), numbers(x.bias)) for view, x in layers.items()}


def numbers(weights: Tensor) -> NDArray[np.float64]:
    return weights.detach().numpy().astype(np.float64)
