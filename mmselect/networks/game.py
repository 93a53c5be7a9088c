"""The two players of VAAL and SRAAL, their losses, and a step of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmselect.arrays import Floats, Index, Singles
from mmselect.engine import ranges
from mmselect.networks.inputs import BLOCK, Inputs
from mmselect.networks.training import adam, batches, descend, layers, tensor

HIDDEN, LATENT = 512, 32
"""Units of each hidden layer, and numbers of a code."""

RATE, BETA, VAE_STEPS = 5e-4, 1.0, 2
"""Adam's rate; weight of the divergence; steps of the autoencoder for one of the discriminator."""


class Batch(NamedTuple):
    """Rows of a step.

    Attributes
    ----------
    x : (b, D) Tensor
    share : (b,) Tensor
        1 over the rows of its kind, labeled or not: sums with it are means over each kind.
    target : (b,) Tensor
        What the discriminator should say: 1 of labeled rows.
    classes : (b,) Tensor, optional
        Of labeled rows; -1 of others.
    """

    x: Tensor
    share: Tensor
    target: Tensor
    classes: Tensor | None


@dataclass
class Game:
    """Autoencoder, discriminator and, for SRAAL, a head on the codes; and the data they see.

    Attributes
    ----------
    x : (r, D) ndarray of float32
    targets : (r,) ndarray of float32
        What the discriminator should say of each row: 1 of labeled rows.
    classes : (r,) ndarray of int, optional
        Of labeled rows; -1 of others.
    rng : numpy.random.Generator
    encoder, decoder, discriminator, head : torch.nn.Module
        The encoder gives mean and log variance of a code, side by side.
    hider, seeker : torch.optim.Optimizer
        Of the autoencoder, with the head; and of the discriminator.
    """

    x: Singles
    targets: Singles
    classes: Index | None
    rng: np.random.Generator
    encoder: nn.Module
    decoder: nn.Module
    discriminator: nn.Module
    head: nn.Module | None
    hider: torch.optim.Optimizer
    seeker: torch.optim.Optimizer

    @classmethod
    def draw(
        cls, x: Singles, targets: Singles, classes: Index | None, rng: np.random.Generator
    ) -> Game:
        """Draw the first weights."""
        width = x.shape[1]
        encoder, decoder = (
            layers(rng, width, HIDDEN, 2 * LATENT),
            layers(rng, LATENT, HIDDEN, width),
        )
        discriminator = layers(rng, LATENT, HIDDEN, HIDDEN, 1)
        head = None if classes is None else layers(rng, LATENT, int(classes.max()) + 1)
        hiders = [encoder, decoder] if head is None else [encoder, decoder, head]
        hider, seeker = adam(*hiders, rate=RATE), adam(discriminator, rate=RATE)
        return cls(x, targets, classes, rng, encoder, decoder, discriminator, head, hider, seeker)

    def steps(self, data: Inputs, count: int) -> Iterator[tuple[float, float]]:
        """Take two steps of the autoencoder and one of the discriminator; yield the last losses."""
        labeled, others = batches(data.labeled, self.rng), batches(data.candidates, self.rng)
        for _ in range(count):
            for _ in range(VAE_STEPS):
                batch = self.batch(next(labeled), next(others))
                hidden = descend(self.hider, self.hider_loss(batch, self.noise(batch)))
            yield float(hidden), float(descend(self.seeker, self.seeker_loss(batch)))

    def noise(self, batch: Batch) -> Tensor:
        """Draw what is added to the codes of a batch, in standard deviations."""
        shape = (len(batch.x), LATENT)
        return tensor(self.rng.standard_normal(shape, dtype=np.float32))

    def hider_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Loss of the autoencoder: rebuild, stay near the normal law, look labeled (and classify).

        Parameters
        ----------
        batch : Batch
        noise : (b, 32) Tensor

        Returns
        -------
        Tensor
            ``Σ share · (‖x − x̂‖² + β KL + BCE(D(μ), 1))``, plus the mean cross-entropy of the
            head on the codes of labeled rows.
        """
        mean, log_variance = self.encoder(batch.x).chunk(2, dim=1)
        rebuilt = self.decoder(mean + torch.exp(log_variance / 2) * noise)
        terms = (rebuilt - batch.x).square().sum(dim=1)
        terms = terms + BETA * divergence(mean, log_variance)
        terms = terms + functional.softplus(-self.discriminator(mean)[:, 0])
        loss = (batch.share * terms).sum()
        if self.head is None or batch.classes is None:
            return loss
        own = batch.classes >= 0
        return loss + functional.cross_entropy(self.head(mean[own]), batch.classes[own])

    def seeker_loss(self, batch: Batch) -> Tensor:
        """Loss of the discriminator: ``Σ share · BCE(D(μ), target)``, the codes held fixed."""
        with torch.no_grad():
            mean, _ = self.encoder(batch.x).chunk(2, dim=1)
        said = self.discriminator(mean)[:, 0]
        terms = functional.binary_cross_entropy_with_logits(said, batch.target, reduction="none")
        return (batch.share * terms).sum()

    @torch.no_grad()
    def recognise(self, rows: Index) -> Floats:
        """Logit of the discriminator for some rows (positions), in blocks of a fixed size."""
        found = np.empty(len(rows))
        for start, stop in ranges(0, len(rows), BLOCK):
            mean, _ = self.encoder(tensor(self.x[rows[start:stop]])).chunk(2, dim=1)
            found[start:stop] = self.discriminator(mean)[:, 0].numpy()
        return found

    def batch(self, labeled: Index, others: Index) -> Batch:
        """Put the rows of a step together."""
        rows = np.concatenate([labeled, others])
        share = np.repeat([1 / len(labeled), 1 / len(others)], [len(labeled), len(others)])
        return Batch(
            x=tensor(self.x[rows]),
            share=tensor(share.astype(np.float32)),
            target=tensor(self.targets[rows]),
            classes=None if self.classes is None else tensor(self.classes[rows]),
        )


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each code from the standard normal law, summed over it.

    Examples
    --------
    >>> divergence(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    tensor([0.5000])
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
