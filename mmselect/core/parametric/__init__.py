"""Parametric selection: MMCSAL and ActiveFT."""
