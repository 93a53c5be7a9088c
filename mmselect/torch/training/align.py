"""Stage 1 of MMCSAL as a command: a pool in, a pool out whose modalities share one space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmselect.ask import Aligning
from mmselect.core.scores.alignment import Alignment
from mmselect.describe.numbers import alignment_pairs, measure_alignment
from mmselect.engine import Engine, Progress
from mmselect.errors import MmselectError, NeedsError, ParameterError, few
from mmselect.files import check_targets
from mmselect.keywords import accepts
from mmselect.networks.training import on_threads
from mmselect.output.tables import as_json
from mmselect.pool.reading import Pool, PoolPath, open_pool, opened_pool
from mmselect.pool.writing import PoolWriter
from mmselect.request import fingerprint
from mmselect.torch.devices import usable_device
from mmselect.torch.training.projectors import OPTIMIZER, STEP, Losses, Projector, Projectors, train
from mmselect.version import __version__

WIDEST = 512
"""Width of the shared space in the paper; ours is that of the narrowest modality, if smaller."""

ROWS_PER_PROTOTYPE, MOST_PROTOTYPES = 44, 5000
"""The paper's 500, 1000 and 5000 prototypes for 22, 46 and 181 thousand samples, and no more."""

OF_THE_OLD_FEATURES = ("/classifier/", "/coalition_logits/")
"""What describes the fused head on the features that were: it does not fit the new ones."""


DECIDING = ("dim", "epochs", "warmup", "rate", "batch_size", "prototypes", "tau", "seed", "device")
"""The options that the new features depend on."""


@dataclass(frozen=True)
class Aligned:
    """What :func:`align_features` did; the features themselves are in the file.

    Attributes
    ----------
    n, dim : int
        Samples, and the width that all modalities now have.
    prototypes : int
        Prototypes of each modality; 0 = trained without.
    losses : tuple of Losses
        Mean cross-modal and unimodal loss of each epoch.
    before, after : list of dict
        Modality gap and mean cosines of each pair of modalities, as ``mmselect info`` reports them
        (Table 3); `before` lacks the pairs whose widths differed.
    within : dict of str to dict
        Mean cosine within each modality, ``before`` and ``after``.
    projectors : dict of str to (weight, bias)
        ``weight @ z + bias``, normalised, is the aligned form of a feature z, new samples included.
    warnings : list of str
    """

    n: int
    dim: int
    prototypes: int
    losses: tuple[Losses, ...]
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]
    within: dict[str, dict[str, float]]
    projectors: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    warnings: list[str]

    @property
    def report(self) -> dict[str, Any]:
        """Everything but the projectors and the warnings, as plain data."""
        names = ("dim", "prototypes", "losses", "before", "after", "within")
        report = {"samples": self.n} | {name: getattr(self, name) for name in names}
        return report | {"losses": [loss._asdict() for loss in self.losses]}


@accepts(Aligning)
def align_features(
    pool: Pool | PoolPath | Sequence[PoolPath],
    target: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    **asked: Any,
) -> Aligned:
    """Project the features of all modalities into one space; write them as a new pool.

    Stage 1 of MMCSAL (Shen et al., ACM MM Asia 2024) on frozen features: a linear projector per
    modality is trained with ``L_cm + L_um``, InfoNCE between modalities plus, after the warm-up,
    the prototypical loss within each. No label is used.

    The new pool holds unit vectors, in float16 where the features were float16 and else in float32,
    and everything else that the pool has but two groups: ``/classifier`` and ``/coalition_logits``
    describe a fused head on the old features. Rows of zeros stay zero, and train nothing.

    The rate rises from 0 during the warm-up and falls to 0 along a cosine after it. By default
    there is a prototype for 44 samples that have the rarest modality, from 2 to 5000. Results do
    not depend on `memory`; their last digits may depend on `threads`, those of torch on a CPU.

    Parameters
    ----------
    pool : Pool, path, or sequence of paths
        With features of two modalities or more, of any widths.
    target : path
        The pool to write, as one file; an existing one is replaced.
    progress : callable, optional
        Told ``(rows done, rows in all epochs)``.
    {options}

    Returns
    -------
    Aligned

    Raises
    ------
    NeedsError
        If there are fewer than two modalities or samples, or no sample has two modalities.
    UsageError
        If an option is out of range.
    MmselectError
        Of the kind that fits, for a pool that cannot be read or a file that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from mmselect.demo import EMOJI
    >>> made = align_features(EMOJI, Path(tempfile.mkdtemp()) / "aligned.h5", epochs=1)
    >>> made.dim, made.after[0]["matched"] > made.before[0]["matched"]
    (64, True)
    """
    target, how = Path(target), Aligning(**asked)
    if how.device == "auto":
        how = replace(how, device="cuda" if torch.cuda.is_available() else "cpu")
    device, engine = usable_device(how.device, "auto or "), Engine(how.threads, how.memory)
    with opened_pool(pool) as opened, on_threads(how.threads):
        check_targets([target], opened.files)
        paths = _paths(opened)
        with opened.located():
            _ = opened.ids  # refuses ids that the new pool could not hold
            old = measure_alignment(opened, engine)  # also finds rows with nan
        how = _settled(how, opened, old)
        rng = np.random.default_rng(how.seed)
        with opened.located():
            maps = {
                path: Projector(opened.columns[path], how.dim or 0, rng, device, engine)
                for path in paths
            }
            try:
                losses = train(maps, how, progress)
            except torch.cuda.OutOfMemoryError:
                message = "expected room for a batch and the prototypes, found none left"
                raise MmselectError(f"{how.device}: {message}; try fewer of both") from None
        _write(opened, target, maps, how, losses)
    with open_pool(target) as written:
        new = measure_alignment(written, engine)
    return Aligned(
        n=opened.n,
        dim=how.dim or 0,
        prototypes=how.prototypes or 0,
        losses=tuple(losses),
        before=alignment_pairs(old),
        after=alignment_pairs(new),
        within={_name(p): {"before": x, "after": new.within[p]} for p, x in old.within.items()},
        projectors={_name(path): projector.affine() for path, projector in maps.items()},
        warnings=_warnings(opened, old, new),
    )


def _name(path: str) -> str:
    return path.removeprefix("/features/")


def _fits(path: str) -> bool:
    """Whether a dataset says as much of the new features as of the old ones."""
    return not path.startswith(OF_THE_OLD_FEATURES)


def _paths(pool: Pool) -> list[str]:
    """Features of every modality.

    Raises
    ------
    NeedsError
        If there is nothing to align.
    """
    names = pool.names("/features")
    if len(names) < 2:
        message = "align needs features of two or more modalities, found "
        raise NeedsError(message + (", ".join(names) or "none"), file=pool.files[0])
    return [f"/features/{name}" for name in names]


def _settled(how: Aligning, pool: Pool, found: Alignment) -> Aligning:
    """Fill in width, warm-up and number of prototypes where nobody said them.

    Raises
    ------
    ParameterError
        If the warm-up is longer than the training.
    """
    narrowest = min(pool.columns[path].shape[1] for path in found.within)
    warmup = how.epochs // 5 if how.warmup is None else how.warmup
    if warmup > how.epochs:
        raise ParameterError(f"warmup: expected from 0 to {how.epochs} epochs, found {warmup}")
    present = pool.n - max(found.zero_rows.values())  # of the rarest modality
    usual = min(max(2, round(present / ROWS_PER_PROTOTYPE)), MOST_PROTOTYPES)
    prototypes = usual if how.prototypes is None else how.prototypes
    dim = how.dim or min(narrowest, WIDEST)
    return replace(how, dim=dim, warmup=warmup, prototypes=prototypes)


def _warnings(pool: Pool, old: Alignment, new: Alignment) -> list[str]:
    """Say what the new pool does not hold, and what did not become better."""
    notices = [f"{name}: not in the format, left out" for name in pool.unknown]
    if gone := sorted(path for path in pool.paths if not _fits(path)):
        notices.append(f"{few(gone)}: left out, as they fit the old features only")
    for path, zero in old.zero_rows.items():
        if zero:
            notices.append(f"{path}: {zero:,} rows are all zero; they stay zero")
        if more := new.zero_rows[path] - zero:
            notices.append(f"{path}: {more:,} rows are their modality's mean and became zero")
    for (a, b), gap in new.gap.items():
        if gap >= old.gap.get((a, b), np.inf):
            notices.append(f"the modality gap of {_name(a)} and {_name(b)} did not become smaller")
    return notices


@torch.no_grad()
def _write(pool: Pool, target: Path, maps: Projectors, how: Aligning, losses: list[Losses]) -> None:
    """Write the aligned pool: projected features, and what is carried over as it is."""
    made = {
        "mmselect": __version__,
        "command": "align",
        "parameters": {name: getattr(how, name) for name in DECIDING} | OPTIMIZER,
        "losses": [loss._asdict() for loss in losses],
        "pool": {"paths": pool.files, "fingerprint": fingerprint(pool)},
    }
    fixed = {path: array for path, array in pool.constants.items() if _fits(path)}
    kept = sorted(filter(_fits, pool.columns))
    with PoolWriter(
        target, fixed, rows=pool.n, attributes={"provenance": as_json(made, whole=True)}
    ) as writer:
        for _, block in pool.blocks(kept, STEP, how.memory):
            for path, projector in maps.items():
                half = pool.columns[path].dtype.itemsize == 2
                projected = projector(block[path]).cpu().numpy()
                block[path] = projected.astype(np.float16 if half else np.float32)
            writer.append(block)
