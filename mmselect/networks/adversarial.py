"""VAAL and SRAAL: a network that recognises labeled samples against one that hides them.

Sinha, Ebrahimi and Darrell, *Variational Adversarial Active Learning*, ICCV 2019. Zhang et al.,
*State-Relabeling Adversarial Active Learning*, CVPR 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmselect.arrays import Floats, Index, Singles, check_labels
from mmselect.core.limits import check_limits
from mmselect.engine import Progress
from mmselect.errors import ParameterError
from mmselect.networks.game import Game
from mmselect.networks.inputs import Inputs
from mmselect.networks.training import check_sound, count_steps, on_threads

EPOCHS, STEPS = 100, 1000
"""Passes over the rows, and most steps: the paper's 100 would be 40,000 on 50,000 samples."""


class Adversaries(NamedTuple):
    """What :func:`vaal` and :func:`sraal` return.

    Attributes
    ----------
    logits : (u,) ndarray of float64
        Of the discriminator, of each candidate: large where it looks labeled.
    losses : list of (float, float)
        Of autoencoder and discriminator, in each step.
    """

    logits: Floats
    losses: list[tuple[float, float]]


def vaal(
    data: Inputs,
    rng: np.random.Generator,
    *,
    epochs: int = EPOCHS,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Adversaries:
    """How much each candidate looks like a labeled sample to VAAL's discriminator.

    A variational autoencoder (D → 512 → 32 and back) learns all samples, and to make their codes
    look labeled; a discriminator (32 → 512 → 512 → 1) learns to tell the codes of labeled samples
    from others::

        L_VAE = recon_L + recon_U + β (KL_L + KL_U) + BCE(D(μ_L), 1) + BCE(D(μ_U), 1)
        L_D   = BCE(D(μ_L), 1) + BCE(D(μ_U), 0)

    (Eqs. 1-4). Reconstruction and divergence are sums over a row, both, so that the code does not
    collapse on vectors. Trained on one thread.

    Parameters
    ----------
    data : Inputs
        Of labeled rows and candidates: :func:`~mmselect.networks.inputs.inputs_of`.
    rng : numpy.random.Generator
        For weights, batches and the noise of the codes.
    epochs : int
        Passes over the rows, in batches of 128 labeled and 128 unlabeled ones.
    steps : int
        No more steps than this; 0: no bound.
    progress : callable, optional
        Told the steps done.

    Returns
    -------
    Adversaries

    Raises
    ------
    ParameterError
        If `epochs` or `steps` is out of range (:mod:`mmselect.core.limits`).
    SelectionError
        If the training ran away.

    Examples
    --------
    >>> from mmselect.networks.inputs import inputs_of
    >>> x = {"x": np.random.default_rng(0).normal(size=(30, 4))}
    >>> found = vaal(inputs_of(x, labeled=np.arange(5)), np.random.default_rng(0), epochs=2)
    >>> found.logits.shape, len(found.losses)
    ((25,), 2)
    """
    check_limits(epochs=epochs, steps=steps)
    targets = np.zeros(len(data.x), np.float32)
    return _played(data, targets, None, rng, count_steps(len(data.x), epochs, steps), progress)


def sraal(
    data: Inputs,
    labels: Index,
    unsure: Floats,
    rng: np.random.Generator,
    *,
    epochs: int = EPOCHS,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Adversaries:
    """How much each candidate looks like a labeled sample to SRAAL's discriminator.

    As :func:`vaal`, but a linear head on the codes of labeled samples learns their classes, which
    shapes the codes, and the discriminator's target for an unlabeled sample is 1 − U, not 0: one
    of which the model is certain counts as if it were labeled (Eqs. 6-9).

    Parameters
    ----------
    data, rng, epochs, steps, progress
        As for :func:`vaal`.
    labels : (l,) ndarray of int
        Classes of the labeled rows, from 0.
    unsure : (u,) ndarray of float64
        U of each candidate: :func:`~mmselect.core.scores.sraal.sraal_indicator`.

    Returns
    -------
    Adversaries

    Raises
    ------
    ParameterError, SelectionError
        As :func:`vaal`; and if `unsure` has another length.
    DataError
        If a labeled row has no class.

    Examples
    --------
    >>> from mmselect.networks.inputs import inputs_of
    >>> x = {"x": np.random.default_rng(0).normal(size=(30, 4))}
    >>> labels, rng = np.arange(6) % 2, np.random.default_rng(0)
    >>> data = inputs_of(x, labeled=np.arange(6))
    >>> sraal(data, labels, np.full(24, 0.5), rng, epochs=2).logits.shape
    (24,)
    """
    check_limits(epochs=epochs, steps=steps)
    check_labels(labels, data.rows[data.labeled])
    if unsure.shape != data.candidates.shape:
        found = f"found shape {unsure.shape}"
        raise ParameterError(f"unsure: expected {len(data.candidates):,}, {found}")
    targets = np.zeros(len(data.x), np.float32)
    targets[data.candidates] = 1 - unsure
    known = np.full(len(data.x), -1)
    known[data.labeled] = labels
    return _played(data, targets, known, rng, count_steps(len(data.x), epochs, steps), progress)


def _played(
    data: Inputs,
    targets: Singles,
    classes: Index | None,
    rng: np.random.Generator,
    steps: int,
    progress: Progress | None,
) -> Adversaries:
    """Train the two against each other, and ask the discriminator about the candidates."""
    targets[data.labeled] = 1
    with on_threads():
        game, losses = Game.draw(data.x, targets, classes, rng), []
        for step, latest in enumerate(game.steps(data, steps), 1):
            check_sound(latest, step)
            losses.append(latest)
            if progress:
                progress(step, steps)
        return Adversaries(game.recognise(data.candidates), losses)
