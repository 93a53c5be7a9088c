"""What people read: one-line messages on stderr, aligned tables on stdout.

Plain text, so that a pipe and a terminal see the same words; colour only on a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmselect import engine

if TYPE_CHECKING:
    from mmselect.request import Request


def fail(message: str, code: int) -> int:
    """Say on one line what went wrong; return the exit code."""
    line = " ".join(message.split())
    print(f"{_style('error:', '31;1')} {line}", file=sys.stderr)
    return code


def _style(text: str, codes: str) -> str:
    """Colour for a terminal, nothing elsewhere."""
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{codes}m{text}\033[0m"


def notices(lines: Sequence[str], quiet: bool, mark: str = "note") -> None:
    """Print notices to stderr, unless nobody wants them."""
    for line in () if quiet else lines:
        print(f"{_style(f'{mark}:', '36')} {line}", file=sys.stderr)


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    from mmselect.output import as_json, to_stdout

    to_stdout([f"{as_json(value, indent=1)}\n".encode()])


def _show_rows(rows: Sequence[Sequence[Any]], indent: str = "") -> None:
    """Print rows in aligned columns."""
    from mmselect.output import aligned, to_stdout

    to_stdout(aligned(rows, indent))


def show_pool(found: dict[str, Any]) -> None:
    """Print what :func:`mmselect.reporting.describe_pool` found."""
    labeled, n = found["labeled"], found["samples"]
    summary = [
        ("files", ", ".join(found["files"])),
        ("samples", f"{n:,} ({labeled:,} labeled, {n - labeled:,} candidates)"),
        ("classes", found["classes"] or "none"),
    ]
    for name, has in found["modalities"].items():
        parts = [f"features of {has['features']}"] if has["features"] else []
        parts += [word for word in ("head", "classifier") if has[word]]
        summary.append((f"modality {name}", ", ".join(parts)))
    _show_rows(summary)
    _show_rows([("", "")])
    table = [("dataset", "shape", "type", "storage")]
    for row in found["datasets"]:
        shape = " × ".join(f"{size:,}" for size in row["shape"])
        table.append((row["path"], shape, row["type"], row.get("storage", "")))
    _show_rows(table)
    _show_rows([("", "")])
    able = found["strategies"]
    rows = [("can run", ", ".join(able["can_run"]))]
    rows += [(f"not {name}", f"lacks {', '.join(lack)}") for name, lack in able["lack"].items()]
    _show_rows(rows)


def show_numbers(found: dict[str, Any]) -> None:
    """Print what :func:`mmselect.reporting.describe_numbers` found."""
    for pair in found["alignment"]:
        _show_rows([("", "")])
        _show_alignment(pair)
    if found["contributions"]:
        _show_rows([("", "")])
        _show_contributions(found["contributions"])


def _show_alignment(pair: dict[str, Any]) -> None:
    """Print the modality gap of a pair of modalities."""
    a, b = pair["modalities"]
    _show_rows(
        [
            (f"modality gap, {a} and {b}", f"{pair['gap']:.6f}"),
            (
                "mean cosine",
                f"within {a} {pair[f'within_{a}']:.6f}, within {b} "
                f"{pair[f'within_{b}']:.6f}, across {pair['across']:.6f}, "
                f"matched {pair['matched']:.6f}",
            ),
        ]
    )


def show_aligned(found: dict[str, Any]) -> None:
    """Print what :func:`mmselect.torch.align_features` did: the gap before and after."""
    before = {tuple(pair["modalities"]): pair for pair in found["before"]}
    table = [("", "before", "after")]
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
    _show_rows(table)
    _show_rows([("", "")])
    for name in ("cross_modal", "unimodal"):
        values = [losses[name] for losses in found["losses"] if losses[name] is not None]
        if values:
            change = f"{values[0]:.4f} → {values[-1]:.4f}"
            _show_rows([(f"{name.replace('_', '-')} loss", change)])


def _show_contributions(found: dict[str, Any]) -> None:
    """Print BMMAL's view of the pool: contributions, dominance, and the guidelines' ratios."""
    names = list(found["mean"])
    heads = [f"weight of {name}" for name in names]
    table = [("unlabeled rows", "mean contribution", "dominates", *heads)]
    for name in names:
        weights = [_number(found["weight_where_dominated_by"][name][other]) for other in names]
        share = f"{100 * found['dominates'][name]:.1f} %"
        table.append((name, f"{found['mean'][name]:.3f}", share, *weights))
    _show_rows(table)
    rows = [("mean dominance degree", _number(found["dominance"]))]
    if len(names) > 1:
        ratio = f"{found['weaker']} over {found['stronger']}"
        before, after = found["norm_ratio_before"], found["norm_ratio_after"]
        rows.append((f"gradient norm where each dominates, {ratio}", _number(before)))
        rows.append(("the same, rescaled by BMMAL", _number(after)))
    _show_rows(rows)


def _number(value: float) -> str:
    """Three decimals, or a dash for a mean over nothing."""
    return "–" if value != value else f"{value:.3f}"


def show_strategy(row: dict[str, Any]) -> None:
    """Print one row of :func:`mmselect.reporting.describe_strategies`."""
    _show_rows([(f"{row['name']}  ({row['kind']})  {row['summary']}",)])
    lines = [("needs", " and ".join(row["needs"]) or "nothing")]
    for p in row["parameters"]:
        default = "" if p["default"] != p["default"] else f" = {p['default']}"
        lines.append(("-p", f"{p['name']}{default}: {p['meaning']} ({p['expected']})"))
    if row["reference"]:
        lines.append(("paper", row["reference"]))
    if row.get("lacks"):
        lines.append(("lacks", " and ".join(row["lacks"])))
    _show_rows(lines, indent="    ")


def show_request(request: Request, k: int, seed: int, form: str) -> None:
    """Print what a selection would do."""
    from mmselect.reporting import describe_request

    found = describe_request(request, k, seed)
    if form == "json":
        show_json(found)
        return
    parameters = " ".join(
        f"{n}={v:g}" if isinstance(v, float) else f"{n}={v}" for n, v in found["parameters"].items()
    )
    _show_rows(
        [
            ("strategy", found["strategy"]),
            ("parameters", parameters or "none"),
            ("seed", seed),
            ("budget", f"{k:,}"),
            ("candidates", f"{found['candidates']:,} ({found['labeled']:,} labeled)"),
            ("reads", ", ".join(found["reads"]) or "nothing"),
            ("to read", engine.format_bytes(found["bytes_to_read"])),
            ("peak memory", f"about {engine.format_bytes(found['peak_memory'])}"),
            ("threads", found["threads"]),
        ]
    )
