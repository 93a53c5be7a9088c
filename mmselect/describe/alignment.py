"""What ``align`` says of its work: the modality gap and the losses, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmselect.describe.report import BLANK, Table


def aligned_rows(found: Mapping[str, Any]) -> Iterator[Table]:
    """Tables for people of what ``align`` did: the gap and the losses, before and after."""
    before = {tuple(pair["modalities"]): pair for pair in found["before"]}
    table: Table = [("", "before", "after")]
    for after in found["after"]:
        a, b = after["modalities"]
        old = before.get((a, b), {})
        for key, name in (
            ("gap", f"modality gap, {a} and {b}"),
            ("across", f"mean cosine across {a} and {b}"),
            ("matched", f"mean cosine of matched {a} and {b}"),
        ):
            was, now = (f"{pair[key]:.6f}" if key in pair else "–" for pair in (old, after))
            table.append((name, was, now))
    for name, cosine in found["within"].items():
        was, now = (f"{cosine[when]:.6f}" for when in ("before", "after"))
        table.append((f"mean cosine within {name}", was, now))
    yield from (table, BLANK)
    for name in ("cross_modal", "unimodal"):
        values = [losses[name] for losses in found["losses"] if losses[name] is not None]
        if values:
            change = f"{values[0]:.4f} → {values[-1]:.4f}"
            yield [(f"{name.replace('_', '-')} loss", change)]
