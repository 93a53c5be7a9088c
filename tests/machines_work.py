"""Work that a test sends to other processes, which can import this file alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np


def die_once(flag: str, rows: np.ndarray, blocks: list[np.ndarray]) -> float:
    """Sum up a block; whoever is first to have row 200 is killed."""
    if 200 in rows and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(blocks[0].sum())


def aligned(held: list[np.ndarray], rows: np.ndarray, blocks: list[np.ndarray]) -> bool:
    """Whether arrays lie where NumPy can multiply them at once."""
    return all(array.flags.aligned for array in (*held, *blocks))


def divide_or_die(flag: str, number: int, by: int) -> int:
    """Divide; whoever is first to do it by 3 is killed."""
    if by == 3 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number // by
