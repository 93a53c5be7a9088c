"""What the page shows, as plain data: the picks with what is known of each, shares, and a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmselect import lists
from mmselect.arrays import Index
from mmselect.ask import Looking
from mmselect.core.coverage.comparing import Compared, CosineSpace, compare, cosine_space
from mmselect.core.scores.confidence import top_class
from mmselect.core.scores.softmax import Activation
from mmselect.engine import Engine
from mmselect.errors import NeedsError
from mmselect.looking.columns import METADATA, Roles, facet_of, roles, values_of
from mmselect.looking.picks import Shown
from mmselect.looking.pictures import Picture, can_read, faults, pictures
from mmselect.looking.projection import BACKGROUND, MARKED, project, spread
from mmselect.looking.shares import Facet, chance, facet
from mmselect.output.tables import class_names
from mmselect.pool.reading import Pool
from mmselect.predictions import (
    FEATURES,
    FUSED,
    Prediction,
    dominating,
    heads_of,
    predict,
)
from mmselect.strategies import registry

SMALL = 2
"""How many times smaller the picture of a labeled sample is than that of a pick."""

Data = dict[str, Any]


@dataclass(frozen=True)
class View:
    """A pool with picks, seen from the outside.

    Attributes
    ----------
    picks : Shown
        All of them.
    labeled : (l,) integer array
        Rows that are labeled, increasing.
    population : (n,) integer array
        Rows that could have been picked, the picks among them, increasing.
    warnings : list of str
        What the user should know; grows.
    """

    pool: Pool
    ask: Looking
    picks: Shown
    labeled: Index
    population: Index
    engine: Engine
    warnings: list[str]

    @property
    def shown(self) -> Index:
        """Rows of the picks that have a card."""
        return self.picks.rows[: self.ask.cards]

    @property
    def activation(self) -> Activation:
        """How logits become probabilities: as asked, else as the picks were made."""
        made = self.picks.provenance.get("parameters", {})
        if made.get("multilabel") is True:
            return "sigmoid"
        return self.ask.activation or made.get("activation", "softmax")  # type: ignore[return-value]


def page_data(view: View) -> Data:
    """Collect everything the page shows.

    Raises
    ------
    MmselectError
        If a column that was asked for is not there, or numbers of the pool cannot be used.
    """
    found = _roles(view)
    with view.pool.located():
        space = _space(view)
        near = _near(view, space)
        columns: list[tuple[str, list[Any]]] = [
            *_said(view, found),
            *_predicted(view),
            *_related(view, near),
        ]
    names = [name for name, _ in columns]
    values = [value for _, value in columns]
    return {
        "key": lists.digest(view.pool.ids.text(view.shown)),
        "thumbnail": view.ask.thumbnail,
        "pool": _pool(view),
        "made": _made(view),
        "facets": [_facet(f, view) for f in _facets(view, found)],
        "map": None if space is None else _map(view, space),
        "labeled": _neighbours(view, found, near),
        "picks": [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)],
    }


def _space(view: View) -> CosineSpace | None:
    """Features as facility location compares them."""
    columns, names = view.pool.columns, view.pool.names(FEATURES)
    if not names:
        return None
    return cosine_space(
        {f"{FEATURES}/{m}": columns[f"{FEATURES}/{m}"] for m in names},
        np.union1d(view.population, view.labeled),
        present={f"{FEATURES}/{m}": mask for m, mask in view.pool.present.items() if m in names},
        engine=view.engine,
    )


def _roles(view: View) -> Roles:
    """Decide what the columns of metadata are for."""
    names = view.pool.names(METADATA)
    asked = {"image": (view.ask.image,), "text": view.ask.text, "columns": view.ask.columns}
    for option, columns in asked.items():
        for column in columns or ():
            if column is not None:
                view.pool.metadata(column, option)  # refuses what is not there
    is_text = {m: view.pool.columns[f"{METADATA}/{m}"].dtype.kind in "OSU" for m in names}
    found = roles(
        {name: values_of(view.pool, name, view.shown) for name in names if is_text[name]},
        [name for name in names if not is_text[name]],
        image=view.ask.image,
        text=view.ask.text,
        columns=view.ask.columns,
    )
    if found.image is None or can_read():
        return found
    lacking = "pictures need pillow; install it with: pip install 'mmselect[look]'"
    if view.ask.image:
        raise NeedsError(lacking)
    view.warnings.append(f"{METADATA}/{found.image}: not shown, since {lacking}")
    return replace(found, image=None)


def _near(view: View, space: CosineSpace | None) -> tuple[Compared | None, Compared | None]:
    """Compare the picks with all that could be picked, and with what is labeled besides them."""
    if space is None:
        return None, None
    others = np.setdiff1d(view.labeled, view.picks.rows)
    whole = compare(space, view.population, view.picks.rows, engine=view.engine)
    if not len(others):
        return whole, None
    return whole, compare(space, others, view.shown, engine=view.engine)


def _classes(pool: Pool) -> list[str]:
    return class_names(pool, pool.sizes.get("c", 0))


def _labels(view: View, rows: Index) -> list[str | None]:
    """Classes of rows that are labeled; None for the others, whose label nobody is to see."""
    if "/label" not in view.pool.columns:
        return [None] * len(rows)
    known, names = np.isin(rows, view.labeled), _classes(view.pool)
    values = np.where(known, view.pool.columns["/label"][rows], -1).tolist()
    named = dict(enumerate(names))
    return [None if label < 0 else named.get(label, str(label)) for label in values]


def _said(view: View, found: Roles) -> list[tuple[str, list[Any]]]:
    """Tell who each pick is: id, label, picture, texts, other columns."""
    pool, rows = view.pool, view.shown
    other = [values_of(pool, name, rows) for name in found.others]
    texts = [values_of(pool, name, rows) for name in found.text]
    empty: list[Any] = [None] * len(rows)
    return [
        ("id", pool.ids.text(rows)),
        ("row", rows.tolist()),
        ("score", view.picks.scores[: len(rows)].tolist()),
        ("label", _labels(view, rows)),
        ("sign", values_of(pool, found.sign, rows) if found.sign else empty),
        ("image", _pictures(view, found, rows, view.ask.thumbnail, tell=True)),
        ("text", [*map(list, zip(*texts, strict=True))] if texts else [[]] * len(rows)),
        (
            "more",
            [[*zip(found.others, row, strict=True)] for row in zip(*other, strict=True)]
            if other
            else [[]] * len(rows),
        ),
    ]


def _pictures(
    view: View, found: Roles, rows: Index, size: int, tell: bool = False
) -> list[Picture | None]:
    if found.image is None:
        return [None] * len(rows)
    values = values_of(view.pool, found.image, rows)
    folders = [*(Path(file).parent for file in view.pool.files), Path()]
    made = pictures(values, folders, size, view.engine)
    if tell:
        view.warnings.extend(faults(found.image, values, made))
    return [*made]


def _predicted(view: View) -> list[tuple[str, list[Any]]]:
    """Tell what the heads say of each pick: first the fused one, then that of each modality."""
    names, rows = _classes(view.pool), view.shown
    said = {
        head: predict(logits, rows, view.activation, head)
        for head, logits in heads_of(view.pool).items()
    }

    def classes(one: Prediction, row: int, count: int) -> list[Any]:
        pairs = zip(one.classes[row, :count], one.probability[row, :count], strict=True)
        return [[names[c], round(float(p), 4)] for c, p in pairs]

    fused = said.pop(FUSED, None)
    top: list[Any] = [None if fused is None else classes(fused, i, 3) for i in range(len(rows))]
    there = {m: mask[rows] for m, mask in view.pool.present.items()}
    heads = [
        [
            [m, *(classes(one, i, 1)[0] if m not in there or there[m][i] else (None, None))]
            for m, one in said.items()
        ]
        for i in range(len(rows))
    ]
    return [("top", top), ("heads", heads)]


def _related(
    view: View, near: tuple[Compared | None, Compared | None]
) -> list[tuple[str, list[Any]]]:
    """Tell whom each pick stands for, and the labeled sample that is most similar to it."""
    whole, labeled = near
    empty: list[Any] = [None] * len(view.shown)
    counts = None if whole is None else np.bincount(whole.point, minlength=len(view.picks.rows))
    near_labeled = empty
    if labeled is not None:
        _, place = np.unique(labeled.row, return_inverse=True)
        pairs = zip(place.tolist(), labeled.similarity.tolist(), strict=True)
        near_labeled = [[at, round(similar, 4)] for at, similar in pairs]
    return [
        ("stands", empty if counts is None else counts[: len(view.shown)].tolist()),
        ("near", near_labeled),
    ]


def _neighbours(
    view: View, found: Roles, near: tuple[Compared | None, Compared | None]
) -> list[Data]:
    """Tell of the labeled samples that are most similar to a pick, each once."""
    if near[1] is None:
        return []
    others = np.setdiff1d(view.labeled, view.picks.rows)
    rows = others[np.unique(near[1].row)]
    columns = {
        "id": view.pool.ids.text(rows),
        "label": _labels(view, rows),
        "sign": values_of(view.pool, found.sign, rows) if found.sign else [None] * len(rows),
        "image": _pictures(view, found, rows, max(view.ask.thumbnail // SMALL, 16)),
        "text": values_of(view.pool, found.text[0], rows) if found.text else [None] * len(rows),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _facets(view: View, found: Roles) -> list[Facet]:
    """Part what could be picked: by predicted class, dominating modality, columns of metadata."""
    pool, rows = view.pool, view.population
    picked = np.searchsorted(rows, view.picks.rows)
    facets = []
    fused = heads_of(pool).get(FUSED)
    if fused is not None:
        predicted = top_class(fused, rows, view.engine, FUSED)
        facets.append(facet("predicted class", _classes(pool), predicted, picked))
    strongest = dominating(pool, rows, view.engine)
    if strongest is not None:
        facets.append(facet("dominating modality", pool.names(FEATURES), strongest, picked))
    if pool.present:
        facets.append(_having(pool, rows, picked))
    columns = [name for name in pool.names(METADATA) if name not in (found.image, found.sign)]
    parted = (facet_of(pool, name, rows, picked) for name in columns)
    return [*facets, *(one for one in parted if one is not None)]


def _having(pool: Pool, rows: Index, picked: Index) -> Facet:
    """Part rows by the modalities that they have."""
    everyone = np.ones(len(rows), bool)
    there = {m: pool.present[m][rows] if m in pool.present else everyone for m in pool.modalities}
    kinds, of = np.unique(np.array(list(there.values())).T, axis=0, return_inverse=True)
    labels = [" and ".join(np.array(pool.modalities)[kind]) or "none" for kind in kinds]
    return facet("modalities there", labels, of.ravel(), picked)


def _facet(one: Facet, view: View) -> Data:
    """Shares of each value, and what random picks would hold of it."""
    n, k = len(view.population), len(view.picks.rows)
    random = [chance(int(count), n, k) for count in one.having]
    return {
        "name": one.name,
        "values": one.values,
        "picked": one.picked.tolist(),
        "random": [[round(x, 5) for x in each] for each in random],
        "of": one.of[: len(view.shown)].tolist(),
    }


def _map(view: View, space: CosineSpace) -> Data:
    """Project some of the pool, of what is labeled, and all picks that are shown."""
    rest = np.setdiff1d(view.population, view.picks.rows)
    others = np.setdiff1d(view.labeled, view.picks.rows)
    groups = [spread(rest, BACKGROUND[view.ask.map]), spread(others, MARKED), view.shown]
    plane = project(space.take(np.concatenate(groups))[0], view.ask.map)
    parts = np.split(plane.points, np.cumsum([len(group) for group in groups])[:-1])
    named = dict(zip(("pool", "labeled", "picks"), parts, strict=True))
    drawn = f"{len(groups[0]):,} of {len(rest):,} other samples"
    return {"how": plane.how, "drawn": drawn, **{k: v.tolist() for k, v in named.items()}}


def _pool(view: View) -> Data:
    return {
        "name": ", ".join(Path(file).name for file in view.pool.files),
        "n": view.pool.n,
        "candidates": len(view.population),
        "labeled": len(view.labeled),
        "picks": len(view.picks.rows),
    }


def _made(view: View) -> Data:
    """Say what made the picks, as far as they say it."""
    told = view.picks.provenance
    name = str(told.get("strategy", ""))
    record = registry.BUILT_IN.get(name)
    constraints: Sequence[Any] = told.get("constraints") or ()
    return {
        "strategy": name,
        "summary": record.summary if record else "",
        "gain": bool(record and record.kind == "batch") or bool(told.get("spread")),
        "parameters": [[str(key), str(value)] for key, value in told.get("parameters", {}).items()],
        "rows": [
            [word, str(told[word])]
            for word in ("spread", "seed", "budget", "mmselect")
            if word in told
        ]
        + [["where", str(w)] for w in told.get("where", ())]
        + [["constraint", str(c)] for c in constraints],
        "warnings": [str(w) for w in told.get("warnings", ())],
    }
