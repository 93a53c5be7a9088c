"""Give picks to the real packages of labeling tools, and read what they write back as a list.

    python -m pip install label-studio-sdk argilla datumaro cvat-sdk fiftyone
    python scripts/try_labeling_tools.py

Every tool that is installed is tried, without its server; one line for each says what was done, and
the first thing that does not fit ends the script with exit code 1. The picks are of the shipped
pool. Its output stands in ``docs/labeling-tools.md``.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mmselect
from mmselect.demo import EMOJI
from mmselect.lists import read_list

BUDGET = 12
LABELS = """<View><Text name="drawing" value="$character"/>
<Choices name="class" toName="drawing">{}</Choices></View>"""


def select(form: str, name: str, *more: str) -> Path:
    """Write picks in a format."""
    asked = ["select", str(EMOJI), "-b", str(BUDGET), "-q", "--format", form, "-o", name, *more]
    subprocess.run([sys.executable, "-m", "mmselect", *asked], check=True)
    return Path(name)


def same(returned: Path) -> bool:
    """Whether a list names the picks, in their order."""
    with mmselect.open_pool(EMOJI) as pool:
        found = read_list(str(returned)).ids(lambda name: not pool.ids.find([name])[1])
        return found == mmselect.select(pool, budget=BUDGET).ids


def label_studio() -> str:
    """Validate tasks and predictions against a labeling config; export as JSON."""
    from label_studio_sdk.label_interface import LabelInterface

    with mmselect.open_pool(EMOJI) as pool:
        names = [name.decode() for name in pool.constants["/class_names"]]
    interface = LabelInterface(LABELS.format("".join(f'<Choice value="{n}"/>' for n in names)))
    tasks = json.loads(select("label-studio", "ls.json", "--predict", "class:drawing").read_text())
    for task in tasks:
        [prediction] = task["predictions"]
        assert interface.validate_task({"data": task["data"]}, validate_regions_only=False)
        assert interface.validate_prediction(prediction)
    exported = [{"id": 100 + i, "annotations": [{}], **task} for i, task in enumerate(tasks)]
    Path("ls-export.json").write_text(json.dumps(exported))
    assert same(Path("ls-export.json"))
    return "tasks and predictions are valid for a config of 76 choices"


def argilla() -> str:
    """Make records; write them as an export does, and read that."""
    import argilla as rg
    from argilla.records._io import JsonIO

    lines = select("argilla", "argilla.jsonl").read_text().splitlines()
    records = [rg.Record(**json.loads(line)) for line in lines]
    JsonIO.to_json(records, "argilla-export.json")
    assert same(Path("argilla-export.json"))
    return "every line makes a Record; what to_json writes of them is read"


def datumaro() -> str:
    """Make a dataset of the files, annotate it, and export it in both formats of CVAT."""
    import datumaro as dm
    import numpy as np

    files = select("cvat", "cvat.txt").read_text().splitlines()
    picture = dm.Image.from_numpy(np.zeros((4, 4, 3), np.uint8))
    for form, annotation in (
        ("datumaro", dm.Label(0)),
        ("coco_instances", dm.Bbox(0, 0, 2, 2, label=0)),
    ):
        items = [dm.DatasetItem(id=f, media=picture, annotations=[annotation]) for f in files]
        dataset = dm.Dataset.from_iterable(items, categories=["emoji"])
        dataset.export(form, form, save_media=False)
        [written] = Path(form).glob("annotations/*.json")
        assert same(written), form
    return "exports as Datumaro and as COCO are read"


def cvat_sdk() -> str:
    """Make the request that creates a task with the files in pick order."""
    from cvat_sdk.models import DataRequest, SortingMethod

    files = select("cvat", "cvat.txt").read_text().splitlines()
    request = DataRequest(
        image_quality=70, server_files=files, sorting_method=SortingMethod("predefined")
    )
    assert request.to_dict()["server_files"] == files
    return "a data request takes the files, sorting_method=predefined"


def fiftyone() -> str:
    """Make samples; their dataset needs MongoDB, so calls on it are compared by signature only."""
    import fiftyone as fo

    picks = json.loads(select("fiftyone", "fiftyone.json").read_text())
    samples = [fo.Sample(filepath=f"{i}.png", mmselect_id=i) for i in picks["ids"]]
    exported = {"samples": [sample.to_dict() for sample in samples]}
    Path("fiftyone-export.json").write_text(json.dumps(exported))
    assert same(Path("fiftyone-export.json"))
    assert {"field", "values", "ordered"} <= {*inspect.signature(fo.Dataset.select_by).parameters}
    assert "key_field" in inspect.signature(fo.Dataset.set_values).parameters
    return "samples are made and read; select_by and set_values by signature only (no MongoDB)"


TOOLS: dict[str, Callable[[], str]] = {
    "label-studio-sdk": label_studio,
    "argilla": argilla,
    "datumaro": datumaro,
    "cvat-sdk": cvat_sdk,
    "fiftyone": fiftyone,
}


def main() -> None:
    """Try every tool that is installed."""
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for package, attempt in TOOLS.items():
            try:
                installed = version(package)
            except PackageNotFoundError:
                print(f"{package}: not installed, not tried")
                continue
            print(f"{package} {installed}: {attempt()}", flush=True)


if __name__ == "__main__":
    main()
