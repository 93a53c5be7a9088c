"""A replay's summary as rows of text, for a terminal and for the page; and all of it as a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from mmselect.output.layout import Leader, aligned, percent
from mmselect.output.tables import as_csv, as_json
from mmselect.replay.picked import BINS
from mmselect.replay.runs import Replay
from mmselect.replay.summary import noteworthy, undecided

ALONE = "One seed, or seeds that are alike: differences cannot be told from noise."


def verdict(summary: dict[str, Any], baseline: bool = True) -> list[str]:
    """Say who is better and worse than the baseline, or why nothing can be said, and what would."""
    said = [*(noteworthy(summary) or [ALONE]), *undecided(summary, baseline)]
    return said + own_noise(summary)


def own_noise(summary: dict[str, Any]) -> list[str]:
    """Say what a trainer that does not repeat itself leaves unseen.

    Examples
    --------
    >>> own_noise({"floor": 0.0123}), own_noise({"floor": 0.0}), own_noise({})
    (['two equal trainings differ by some 1.2 points: smaller differences do not count'], [], [])
    """
    if not (floor := summary.get("floor", 0.0)):
        return []
    points = f"{100 * floor:.1f} points"
    return [f"two equal trainings differ by some {points}: smaller differences do not count"]


def summary_rows(summary: dict[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Make the summary table: a head, then one row per strategy, as text."""
    base, best = summary["baseline"], summary["best"]
    rows: list[tuple[str, ...]] = [
        (
            "strategy",
            "mean accuracy",
            f"against {base}",
            "last round",
            f"labels for {percent(summary['target'])}",
            f"of {base}'s",
            "seconds",
        )
    ]
    for name in names:
        row = summary["strategies"][name]
        mean = plus_minus(row["area"]["accuracy"])
        price, share = row["labels_to_target"], row["relative_labels"]
        rows.append(
            (
                name,
                Leader(mean) if best and name == best["names"][0] else mean,
                "" if name == base else between(row["area_difference"]["accuracy"]),
                plus_minus(row["last"]),
                f"{price:,.0f}" if price == price else "not reached",
                of_labels(share),
                f"{row['seconds']:.2g}",
            )
        )
    if full := summary["full"]:
        rows.append(("all labels", "", "", plus_minus(full["accuracy"]), "", "", ""))
    return rows


def head_rows(
    summary: dict[str, Any], names: Sequence[str], modalities: Sequence[str]
) -> list[tuple[str, ...]]:
    """Make the table of mean accuracies by head: of all test samples, and balanced over classes."""
    heads = ["", *(f".{m}" for m in modalities if len(modalities) > 1)]
    rows = [("accuracy / balanced", "all modalities", *(f"{head[1:]} alone" for head in heads[1:]))]
    for name in names:
        area = summary["strategies"][name]["area"]
        pairs = [(area[f"accuracy{head}"], area[f"accuracy.balanced{head}"]) for head in heads]
        cells = ("–" if a != a else f"{100 * a:.1f} / {100 * b:.1f}" for (a, *_), (b, *_) in pairs)
        rows.append((name, *cells))
    return rows


def plus_minus(values: Sequence[float]) -> str:
    """Show a share as percent with half its interval.

    Examples
    --------
    >>> plus_minus((0.5, 0.45, 0.55)), plus_minus((0.5, float("nan"), float("nan")))
    ('50.0 ± 5.0', '50.0')
    """
    mean, low, high = (100 * x for x in values)
    return f"{mean:.1f}" if low != low else f"{mean:.1f} ± {(high - low) / 2:.1f}"


def between(values: Sequence[float]) -> str:
    """Show a difference in points with its interval.

    Examples
    --------
    >>> between((0.05, 0.01, 0.09))
    '+5.0 [+1.0, +9.0]'
    """
    mean, low, high = (100 * x for x in values)
    return f"{mean:+.1f}" if low != low else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def forecast_rows(summary: dict[str, Any], last: dict[str, float]) -> list[tuple[str, ...]]:
    """Make the table of labels that accuracies take, and how many more than played those are."""
    targets, rows = summary["forecast"]["targets"], summary["forecast"]["strategies"]
    head = [cell for t in targets for cell in (f"labels for {percent(t)}", "more than played")]
    found: list[tuple[str, ...]] = [("strategy", *head)]
    for name, row in rows.items():
        cells: list[str] = []
        for median, low, high in row["labels"]:
            more = median - last[name]
            far = "–" if not math.isfinite(more) else f"{more:,.0f}" if more > 0 else "none"
            cells += [foretold(median, low, high), far]
        found.append((name, *cells))
    return found


def last_labels(found: Replay) -> dict[str, float]:
    """Labeled samples after the last round, by strategy."""
    return {name: float(x[:, -1].mean()) for name, x in found.curves("labeled").items()}


def foretold(median: float, low: float, high: float) -> str:
    """Show labels with their bounds.

    Examples
    --------
    >>> nan, inf = float("nan"), float("inf")
    >>> foretold(1020.4, 914.0, 1549.0), foretold(1020.4, 914.0, inf), foretold(inf, 914.0, inf)
    ('1,020 [914, 1,549]', '1,020 [914, ∞]', 'over 914')
    >>> foretold(226.0, 226.0, 226.0), foretold(inf, inf, inf), foretold(nan, nan, nan)
    ('226', 'out of reach', '–')
    """
    if median != median:
        return "–"
    if not math.isfinite(median):
        return f"over {low:,.0f}" if math.isfinite(low) else "out of reach"
    bound = f"{high:,.0f}" if math.isfinite(high) else "∞"
    return f"{median:,.0f}" if low == high else f"{median:,.0f} [{low:,.0f}, {bound}]"


def of_labels(values: Sequence[float]) -> str:
    """Show labels as a share of the baseline's, with its interval in percent.

    Examples
    --------
    >>> nan, inf = float("nan"), float("inf")
    >>> of_labels((0.63, 0.41, 0.88)), of_labels((0.9, 0.6, inf)), of_labels((nan, 0.95, inf))
    ('63 % [41, 88]', '90 % [60, ∞]', 'over 95 %')
    >>> of_labels((nan, nan, nan)), of_labels((0.63, nan, nan))
    ('–', '63 %')
    """
    share, low, high = values
    if share != share:
        return f"over {percent(low, 0)}" if low == low else "–"
    bound = "∞" if high == math.inf else f"{100 * high:.0f}"
    alone = low != low or low == high
    return percent(share, 0) if alone else f"{percent(share, 0)} [{100 * low:.0f}, {bound}]"


def settings_rows(found: Replay) -> list[tuple[str, str]]:
    """Say what was played, line by line."""
    s = found.settings
    start = ", ".join([s["start"]] if s["rounds"] else s["start"])
    if s["rounds"] and start != "labeled":
        start += f", {s['start_budget']}"
    split = "the pool's own split" if s["test_fraction"] is None else percent(s["test_fraction"], 0)
    return [
        ("pool", ", ".join(s["pool"]["paths"])),
        ("samples", f"{s['pool']['samples']:,} with a known label, {s['classes']} classes"),
        ("modalities", ", ".join(s["modalities"]) or "–"),
        ("tested on", split),
        ("start", start),
        ("rounds", f"{s['rounds']} of {s['budget']}" if s["rounds"] else "none: first batches"),
        ("seeds", ", ".join(map(str, s["seeds"]))),
        *([("trained by", s["train"])] if "train" in s else []),
        ("mmselect", s["mmselect"]),
    ]


def win_rows(summary: dict[str, Any], names: Sequence[str], measure: str) -> list[tuple[str, ...]]:
    """Make BMMAL's Fig. 5: the share of the rounds in which the row beats the column by a test."""
    rows = [("wins over", *names)]
    for i, (name, row) in enumerate(zip(names, summary["wins"][measure], strict=True)):
        cells = ["" if i == j else "–" if x != x else f"{x:.1f}" for j, x in enumerate(row)]
        rows.append((name, *cells))
    means = ["–" if x != x else f"{x:.2f}" for x in summary["beaten"][measure]]
    return [*rows, ("mean of the column", *means)]


def class_rows(summary: dict[str, Any], name: str) -> list[tuple[str, ...]]:
    """Make BMMAL's Fig. 8 for one strategy: the classes it improves and drops most, in points."""
    found = summary["classes"][name]
    sides = [
        [(row["class"], f"{100 * row['difference']:+.1f}") for row in found[side]]
        for side in ("improved", "dropped")
    ]
    head = (f"{name} improves", "points", "and drops", "points")
    return [head, *((*a, *b) for a, b in zip_longest(*sides, fillvalue=("", "")))]


def class_table(
    gains: dict[str, list[dict[str, Any]]], modalities: Sequence[str]
) -> list[tuple[str, ...]]:
    """Make the same as one table, with the differences of each modality's head."""
    heads = ["", *(f".{m}" for m in modalities if len(modalities) > 1)]
    rows = [("class", "accuracy", "difference", *(f"{head[1:]} alone" for head in heads[1:]))]
    for row in [*gains["improved"], *gains["dropped"][::-1]]:
        less = (100 * row.get(f"difference{head}", math.nan) for head in heads)
        shown = ("–" if x != x else f"{x:+.1f}" for x in less)
        rows.append((row["class"], f"{100 * row['accuracy']:.1f}", *shown))
    return rows


def bin_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Make MMCSAL's Figs. 3 to 5: the share of the picks in each fifth, least confident first."""
    ends = [percent(i / BINS, 0) for i in range(1, BINS + 1)]
    rows = [("picks by confidence", *(f"up to {end}" for end in ends))]
    for name, shares in summary["bins"].items():
        rows.append((name, *(percent(share, 0) for share in shares)))
    return rows


def visible_rows(
    summary: dict[str, Any], names: Sequence[str], seeds: int
) -> list[tuple[str, ...]]:
    """Make the matrix of the smallest differences that the seeds see, in points."""
    rows = [(f"{seeds} seeds see", *names[:-1])]
    for i, name in enumerate(names[1:], 1):
        row = summary["visible"][i][:i]
        rows.append((name, *map(_points, row), *[""] * (len(names) - 1 - i)))
    return rows


def first_rows(found: Replay, summary: dict[str, Any]) -> Iterator[list[tuple[str, ...]]]:
    """Make the tables of first batches: accuracies, differences, what the seeds can see."""
    base, seeds = summary["baseline"], len(found.settings["seeds"])
    given = zip(found.settings["budget"], summary["labeled"], strict=True)
    budgets = [f"{b} ({n:,.0f})" if "%" in str(b) else f"{n:,.0f}" for b, n in given]
    rows = summary["strategies"]
    means = {name: [plus_minus(x) for x in row["mean"]["accuracy"]] for name, row in rows.items()}
    for j in range(len(budgets)):
        best = max(rows, key=lambda name: rows[name]["mean"]["accuracy"][j][0])
        means[best][j] = Leader(means[best][j])
    yield [("first batch alone", *budgets), *((name, *row) for name, row in means.items())]
    others = {name: row for name, row in rows.items() if name != base}
    if not others:
        return
    against = {n: [between(x) for x in row["difference"]["accuracy"]] for n, row in others.items()}
    yield [(f"against {base}", *budgets), *((name, *row) for name, row in against.items())]
    if seeds > 1:
        seen = {n: [_points(x) for x in row["visible"]] for n, row in others.items()}
        yield [(f"{seeds} seeds see", *budgets), *((name, *row) for name, row in seen.items())]


def _points(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def first_verdict(found: Replay, summary: dict[str, Any]) -> list[str]:
    """Say which first batches are better and worse than the baseline's by more than noise."""
    base, budgets = summary["baseline"], found.settings["budget"]
    rows = {n: r["difference"]["accuracy"] for n, r in summary["strategies"].items() if n != base}
    floor = summary.get("floor", 0.0)
    if all(low != low for row in rows.values() for _, low, _ in row):
        return [ALONE]
    lines = []
    for word, sign in (("better", 1), ("worse", -1)):
        beyond = {
            name: [
                str(budget)
                for budget, (mean, low, high) in zip(budgets, row, strict=True)
                if sign * (low if sign > 0 else high) > 0 and abs(mean) >= floor
            ]
            for name, row in rows.items()
        }
        named = [f"{name} ({', '.join(at)})" for name, at in beyond.items() if at]
        lines.append(f"{word} than {base}, beyond noise: {', '.join(named) or 'none'}")
    if len(rows) > 1:
        lines.append(
            f"intervals against {base} hold for all {len(rows)} starts of a budget at once"
        )
    return lines + own_noise(summary)


def tables(found: Replay, summary: dict[str, Any]) -> Iterator[Sequence[tuple[str, ...]]]:
    """Say who did how well, and which differences are more than noise."""
    names = found.settings["strategies"]
    blank = [("",)]
    yield from (settings_rows(found), blank)
    if not found.settings["rounds"]:
        for rows in first_rows(found, summary):
            yield from (rows, blank)
        if summary["bins"]:
            yield from (bin_rows(summary), blank)
        yield [(line,) for line in first_verdict(found, summary)]
        return
    # without the seconds: the same replay prints the same bytes
    yield from ([row[:-1] for row in summary_rows(summary, names)], blank)
    yield from (head_rows(summary, names, found.settings["modalities"]), blank)
    if len(found.settings["seeds"]) > 1:
        yield from (win_rows(summary, names, "accuracy"), blank)
        if len(names) > 1:
            yield from (visible_rows(summary, names, len(found.settings["seeds"])), blank)
    if summary["target_given"]:
        yield from (forecast_rows(summary, last_labels(found)), blank)
    if summary["classes"]:
        area = summary["strategies"]
        leader = max(summary["classes"], key=lambda name: area[name]["area"]["accuracy"][0])
        yield from (class_rows(summary, leader), blank)
    if summary["bins"]:
        yield from (bin_rows(summary), blank)
    yield [(line,) for line in verdict(summary)]


def as_text(found: Replay, summary: dict[str, Any]) -> Iterator[bytes]:
    """Lay the tables out for a file or a pipe."""
    for table in tables(found, summary):
        yield from aligned(table)


FORMS: dict[str, Callable[[Replay, dict[str, Any]], Iterable[bytes]]] = {
    "text": as_text,
    "csv": lambda found, _: as_csv({**found.columns}),
    "json": lambda found, summary: [f"{as_json(everything(found, summary), indent=1)}\n".encode()],
}


def everything(found: Replay, summary: dict[str, Any]) -> dict[str, Any]:
    """Collect settings, summary, the measures of every round, and the picks, as plain data."""
    picks = [{"strategy": r.strategy, "seed": r.seed, "picks": r.picks} for r in found.runs]
    return {
        "settings": found.settings,
        "summary": summary,
        "rounds": found.rows,
        "picks": picks,
        "warnings": found.warnings,
    }
