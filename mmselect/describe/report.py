"""What all reports share: tables for people, fields for JSON."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, TypeAlias

Table: TypeAlias = list[tuple[Any, ...]]
"""Rows of cells; with three columns or more, the first one is the head."""

BLANK: Table = [("",)]


def as_data(report: Any) -> dict[str, Any]:
    """Fields of a report, for JSON; one whose default is None only where it says something."""
    said = asdict(report)
    return {f.name: v for f in fields(report) if (v := said[f.name]) is not None or f.default}


def plain(value: Any) -> str:
    """Write a parameter's value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
