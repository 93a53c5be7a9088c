"""Says which samples of a multimodal pool to label next.

The names below are imported when they are first used, so that ``import mmselect`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmselect.errors import MmselectError
    from mmselect.looking.page import look
    from mmselect.packing.pack import pack
    from mmselect.packing.report import Packed
    from mmselect.pool.reading import Pool, open_pool
    from mmselect.pool.writing import write_pool
    from mmselect.selection import Scores, Selection, score, select
    from mmselect.strategies.record import Batch, Need, Parameter, Picks, Strategy

from mmselect.version import __version__

_HOME = {
    "MmselectError": "mmselect.errors",
    "Packed": "mmselect.packing.report",
    "Pool": "mmselect.pool.reading",
    "open_pool": "mmselect.pool.reading",
    "pack": "mmselect.packing.pack",
    "write_pool": "mmselect.pool.writing",
    "Scores": "mmselect.selection",
    "Selection": "mmselect.selection",
    "look": "mmselect.looking.page",
    "score": "mmselect.selection",
    "select": "mmselect.selection",
    "Batch": "mmselect.strategies.record",
    "Need": "mmselect.strategies.record",
    "Parameter": "mmselect.strategies.record",
    "Picks": "mmselect.strategies.record",
    "Strategy": "mmselect.strategies.record",
}

__all__ = [
    "Batch",
    "MmselectError",
    "Need",
    "Packed",
    "Parameter",
    "Picks",
    "Pool",
    "Scores",
    "Selection",
    "Strategy",
    "__version__",
    "look",
    "open_pool",
    "pack",
    "score",
    "select",
    "write_pool",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mmselect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
