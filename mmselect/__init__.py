"""Says which samples of a multimodal pool to label next."""

from __future__ import annotations

__version__ = "0.1.0"
