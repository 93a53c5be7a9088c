"""An export that ends early leaves a partial pool, and nothing under the final name."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmselect
from mmselect.errors import MmselectError, OutputError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch_helper import export_models  # noqa: E402
from torch_helper.export_models import EXPORT, TwoTower, data, loader  # noqa: E402
from torch_helper.test_export import read  # noqa: E402

from mmselect.torch import export_pool  # noqa: E402
from mmselect.torch.export import shards  # noqa: E402


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SECONDS", 0)


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The file of an export that nothing interrupted."""
    path = tmp_path / "whole" / "pool.h5"
    path.parent.mkdir()
    export_pool(TwoTower(), loader(), path, **EXPORT)
    return path.read_bytes()


def ending(batches: Any, after: int, error: BaseException) -> Iterator[Any]:
    for index, batch in enumerate(batches):
        if index == after:
            raise error
        yield batch


def export_some(path: Path, after: int, **changes: Any) -> None:
    """Export some batches and stop."""
    batches = ending(loader(), after, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        export_pool(TwoTower(), batches, path, **{"n": 22, **EXPORT, **changes})


def names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "whole" not in path.parts)
    return sorted(str(path.relative_to(folder)) for path in files)


def partial(*batches: int, part: int = 0) -> list[str]:
    """The files of an export under way whose shards begin with these batches."""
    made = [f"{part:04d}-{first:08d}.h5" for first in batches]
    return [f"pool.h5.partial/{name}" for name in (*made, f"{part:04d}.lock")]


def test_killed_and_resumed(tmp_path: Path, whole: bytes) -> None:
    path, after = tmp_path / "pool.h5", 3
    script = [sys.executable, export_models.__file__, str(path), str(after)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(script, env=environment, capture_output=True, cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert names(tmp_path) == partial(0, 1, 2)
    done = [tmp_path / name for name in partial(0, 1, 2)[:-1]]
    with mmselect.open_pool(done) as pool:  # sound, whatever killed the program
        assert pool.n == 15 and pool.ids.text([14]) == ["s14"]
    runs: list[int] = []
    model = TwoTower()
    model.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    export_pool(model, loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole
    assert names(tmp_path) == ["pool.h5"]
    again = 1 + 5 - after  # the last one that was written, and those that were not
    assert len(runs) == again * (1 + EXPORT["dropout_passes"])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_interrupted_and_resumed(tmp_path: Path, whole: bytes, after: int, known: bool) -> None:
    path = tmp_path / "pool.h5"
    export_some(path, after, n=22 if known else None)
    assert names(tmp_path) == (partial(*range(after)) if after else [])
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_resumed_twice_and_with_nothing_to_resume(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "pool.h5"
    for after in (2, 3):
        export_some(path, after, resume=True)
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_an_error_says_how_to_go_on(tmp_path: Path) -> None:
    batches = ending(loader(), 2, ValueError("a broken image"))
    with pytest.raises(ValueError, match="a broken image") as raised:
        export_pool(TwoTower(), batches, tmp_path / "pool.h5", n=22, **EXPORT)
    note = f"{tmp_path / 'pool.h5.partial'} keeps 10 rows; resume=True goes on there"
    assert raised.value.__notes__ == [note]


def test_without_resume_it_starts_again(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "pool.h5"
    export_some(path, 3)
    for other in ({"classifier": "fusions"}, {"metadata": {"m": "x"}}):
        with pytest.raises(MmselectError, match=r"did you mean 'fusion'|expected a part of"):
            export_pool(TwoTower(), loader(), path, **EXPORT | other)
        assert names(tmp_path) == partial(0, 1, 2)  # what there is stays until there is more
    export_pool(TwoTower(), loader(), path, **EXPORT)
    assert path.read_bytes() == whole and names(tmp_path) == ["pool.h5"]


def test_shards_are_written_when_they_are_large_or_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    path = tmp_path / "pool.h5"
    for size, seconds, share, made in (
        (1 << 30, 1e9, 16, [0]),
        (1, 1e9, 16, [0, 1, 2, 3]),
        (1500, 1e9, 16, [0, 2]),
        (1 << 30, 0, 1, [0, 1, 2]),
    ):
        monkeypatch.setattr(shards, "SHARD_BYTES", size)
        monkeypatch.setattr(shards, "SHARD_SECONDS", seconds)
        monkeypatch.setattr(shards, "SHARD_SHARE", share)
        export_some(path, 4)
        assert names(tmp_path) == partial(*made), (size, seconds)
        export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
        assert path.read_bytes() == whole
        path.unlink()


@pytest.mark.parametrize("join", [True, False])
def test_interrupted_while_shards_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, join: bool
) -> None:
    path = tmp_path / "pool.h5"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "join_shards" if join else "check_shards", interrupted)
        export_pool(TwoTower(), loader(), path, join=join, **EXPORT)
    assert names(tmp_path)[-1] == "pool.h5.partial/lock" and len(names(tmp_path)) == 5 + 3
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_shards_are_left(tmp_path: Path, whole: bytes) -> None:
    folder = tmp_path / "pool"
    export_pool(TwoTower(), loader(), folder, join=False, **EXPORT)
    made = sorted(folder.iterdir())
    assert [path.name for path in made] == [f"0000-{batch:08d}.h5" for batch in range(5)]
    with mmselect.open_pool(made) as pool, mmselect.open_pool(tmp_path / "whole/pool.h5") as one:
        assert pool.unknown == [] and pool.paths == one.paths
        assert all(np.array_equal(pool.columns[p][:], one.columns[p][:]) for p in one.columns)
    assert mmselect.select(made, "bmmal", 3).ids
    with pytest.raises(OutputError, match="pool: expected no folder of this name, found something"):
        export_pool(TwoTower(), loader(), folder, join=False, **EXPORT)


def part_of(rank: int, parts: int) -> Any:
    rows = range(rank * 22 // parts, (rank + 1) * 22 // parts)
    data = torch.utils.data.Subset(export_models.Samples(), rows)
    return torch.utils.data.DataLoader(data, 5)


def read_rows(path: Path) -> dict[str, Any]:
    found = read(path)
    del found["/dropout_logits"]  # its random numbers follow from the batches, which are others
    return found


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_one_after_the_other(tmp_path: Path, whole: bytes, order: tuple[int, ...]) -> None:
    path = tmp_path / "pool.h5"
    for rank in order:
        assert not path.exists()
        export_pool(TwoTower(), part_of(rank, 3), path, part=(rank, 3), **EXPORT)
    assert names(tmp_path) == ["pool.h5"]
    found, expected = read_rows(path), read_rows(tmp_path / "whole/pool.h5")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype.kind == "f":
            assert np.allclose(found[name], array, atol=1e-6)
        else:
            assert np.array_equal(found[name], array)


def process(path: Path, *arguments: object) -> Any:
    script = [sys.executable, export_models.__file__, str(path), *map(str, arguments)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(script, env=environment, cwd=path.parent)


def test_two_processes_at_once(tmp_path: Path, whole: bytes) -> None:
    """One of them is killed, and goes on later."""
    path = tmp_path / "pool.h5"
    first, second = process(path, 9, 0, 2), process(path, 1, 1, 2)
    assert (first.wait(), second.wait()) == (0, -signal.SIGKILL)
    assert not path.exists()
    expected = [
        *partial(0, 1, 2)[:-1],
        *(f"pool.h5.partial/{n}" for n in ("0000.done", "0000.lock")),
    ]
    assert set(names(tmp_path)) - {"pool.h5.partial/lock"} == {*expected, *partial(0, part=1)}
    export_pool(TwoTower(), part_of(1, 2), path, part=(1, 2), resume=True, **EXPORT)
    assert names(tmp_path) == ["pool.h5"]
    assert read(path)["/id"].tolist() == [name.encode() for name in export_models.IDS]


def test_two_processes_end_at_once(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "pool.h5"
    both = [process(path, 9, rank, 2) for rank in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert names(tmp_path) == ["pool.h5"] and len(read(path)["/id"]) == 22


def export_part(path: Path, rank: int, parts: int, **changes: Any) -> None:
    export_pool(TwoTower(), part_of(rank, parts), path, part=(rank, parts), **EXPORT | changes)


PARTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "the same rows twice": (
        lambda path: [
            export_pool(TwoTower(), part_of(0, 2), path, part=(rank, 2), **EXPORT)
            for rank in (0, 1)
        ],
        r"pool\.h5.*/id: row.* expected unique ids, found 's00' again",
    ),
    "other settings": (
        lambda path: [export_part(path, 0, 2), export_part(path, 1, 2, seed=8)],
        "h5: expected seed = 7, as in the export under way, found 8",
    ),
    "no ids": (
        lambda path: export_part(path, 0, 2, ids=None),
        "part: expected ids= with it, found none",
    ),
    "beyond the last": (lambda path: export_part(path, 2, 2), r"part: .*\(0, 4\), found \(2, 2\)"),
    "no pair": (
        lambda path: export_pool(TwoTower(), loader(), path, part=1, **EXPORT),
        r"part: expected which of how many, such as \(0, 4\), found 1",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_that_do_not_fit(tmp_path: Path, case: str) -> None:
    export, message = PARTS[case]
    with pytest.raises(MmselectError, match=message):
        export(tmp_path / "pool.h5")
    assert not (tmp_path / "pool.h5").exists()


def test_fewer_parts_than_before(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "pool.h5"
    for rank in (1, 3):
        export_part(path, rank, 4)
    export_pool(TwoTower(), loader(), path, **EXPORT)
    assert path.read_bytes() == whole and names(tmp_path) == ["pool.h5"]


def other_weights(model: Any, factor: float) -> Any:
    with torch.no_grad():
        model.text_encoder[0].weight.mul_(factor)
    return model


def other_numbers(model: Any) -> Any:
    """What no parameter tells."""
    model.text_encoder.register_forward_hook(lambda _module, _args, output: output * 1.3)
    return model


def other_classifier(model: Any) -> Any:
    with torch.no_grad():
        model.fusion.fc.bias.add_(1)
    return model


def renamed() -> Any:
    batches = list(loader())
    batches[0]["id"][2] = "other"
    return batches


CHANGED: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any], str]] = {
    "passes": (TwoTower, loader, {"dropout_passes": 4}, "expected dropout_passes = 3, .*found 4"),
    "seed": (TwoTower, loader, {"seed": 8}, "expected seed = 7, as in the .*, found 8"),
    "amp": (TwoTower, loader, {"amp": "bfloat16"}, "amp = None, .*found torch.bfloat16"),
    "features": (
        TwoTower,
        loader,
        {"features": {"image": "image_encoder.1", "text": "text_encoder"}},
        "expected /features/image = image_encoder, .*found image_encoder.1",
    ),
    "one array less": (
        TwoTower,
        loader,
        {"unimodal_logits": {}},
        "expected /unimodal_logits/image = image_head, .*found None",
    ),
    "classifier": (lambda: other_classifier(TwoTower()), loader, {}, "classifier = fusion.fc"),
    "weights": (
        lambda: other_weights(TwoTower(), 1.0001),
        loader,
        {},
        "expected model = .*, found",
    ),
    "numbers": (
        lambda: other_numbers(TwoTower()),
        loader,
        {},
        r"/features/text: rows 10, 11.*numbers written before, found others.*\(id s10, s11",
    ),
    "ids": (TwoTower, renamed, {}, "/id: row 2: expected 's02', as in .* under way, found 'oth"),
    "batch size": (
        TwoTower,
        lambda: loader(batch_size=4),
        {},
        "expected 5 rows in batch 3, as before, found 4",
    ),
    "fewer batches": (TwoTower, lambda: list(loader())[:2], {"n": 22}, "22 rows .*, found 10"),
    "shuffled": (TwoTower, lambda: loader(shuffle=True), {}, "/id: row .*export under way, found"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_changed_in_between_is_an_error(tmp_path: Path, what: str) -> None:
    model, batches, changes, message = CHANGED[what]
    path = tmp_path / "pool.h5"
    export_some(path, 3)
    before = [(tmp_path / name).read_bytes() for name in partial(0, 1, 2)]
    with pytest.raises(MmselectError, match=message):
        export_pool(model(), batches(), path, resume=True, **{**EXPORT, **changes})
    assert [(tmp_path / name).read_bytes() for name in partial(0, 1, 2)] == before
    assert what == "fewer batches" or names(tmp_path) == partial(0, 1, 2)


BROKEN = {
    "no HDF5": ("0000-00000001.h5", b"text", r"0000-00000001\.h5: expected an HDF5 file, found so"),
    "a shard is missing": (
        "0000-00000000.h5",
        None,
        r"0000-00000001\.h5: expected the shard of batch 1, found another; without resume",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_broken(tmp_path: Path, whole: bytes, case: str) -> None:
    name, content, message = BROKEN[case]
    path = tmp_path / "pool.h5"
    export_some(path, 2)
    broken = tmp_path / "pool.h5.partial" / name
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(MmselectError, match=message) as raised:
        export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert "\n" not in str(raised.value)
    export_pool(TwoTower(), loader(), path, **EXPORT)
    assert path.read_bytes() == whole


def test_whole_numbers_of_numpy(tmp_path: Path, whole: bytes) -> None:
    options = {"seed": np.int64(7), "dropout_passes": np.int64(3), "n": np.int32(22)}
    export_pool(TwoTower(), loader(), tmp_path / "pool.h5", **EXPORT | options)
    assert (tmp_path / "pool.h5").read_bytes() == whole


def test_other_batches_without_ids_are_noticed_too(tmp_path: Path) -> None:
    path, options = tmp_path / "pool.h5", EXPORT | {"ids": None, "inputs": ["image", "text"]}
    export_some(path, 3, **options)
    with pytest.raises(MmselectError, match="expected 5 rows in batch 3, as before, found 4"):
        export_pool(TwoTower(), loader(batch_size=4), path, resume=True, **options)


def test_another_export_at_work(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"

    def batches() -> Iterator[Any]:
        for batch in loader():
            with pytest.raises(OutputError, match="expected no other process at work, found one"):
                export_pool(TwoTower(), loader(), path, **EXPORT)
            yield batch

    export_pool(TwoTower(), batches(), path, **EXPORT)
    assert names(tmp_path) == ["pool.h5"]


def test_an_existing_pool_stays_until_the_end(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "pool.h5"
    path.write_bytes(b"old")
    path.chmod(0o640)
    export_some(path, 3)
    assert path.read_bytes() == b"old"
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole and path.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "pool.h5").symlink_to(tmp_path / "there" / "real.h5")
    export_pool(TwoTower(), loader(), tmp_path / "pool.h5", **EXPORT)
    assert (tmp_path / "pool.h5").is_symlink()
    assert names(tmp_path / "there") == ["real.h5"]


def wide(rows: int) -> Iterator[dict[str, Any]]:
    for start in range(0, rows, 100):
        x = data(22)["image"][:1].repeat(100, 1000) + start
        yield {"x": x, "id": [f"row {start + i}" for i in range(100)]}


@pytest.mark.parametrize("known", [True, False])
def test_disk_full(tmp_path: Path, known: bool) -> None:
    """A limit on the size of files stands for the disk: the system refuses in the same way."""
    path = tmp_path / "pool.h5"
    options = {
        "function": lambda b: {"/features/x": b["x"]},
        "ids": "id",
        "n": 1000 if known else None,
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"pool\.h5: cannot be written: file too large"):
            export_pool(torch.nn.Identity(), wide(1000), path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
    export_pool(torch.nn.Identity(), wide(1000), path, resume=True, **options)
    assert len(read(path)["/features/x"]) == 1000


def test_disk_full_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    path, real, calls = tmp_path / "pool.h5", os.pwrite, []

    def pwrite(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 200:
            raise OSError(28, "No space left on device")
        if len(calls) % 2:  # the system may take less than it is given
            return real(arguments[0], arguments[1][:3], arguments[2])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        message = r"0000-00000.*\.h5: cannot be written: no space left on device"
        with pytest.raises(OutputError, match=message) as raised:
            export_pool(TwoTower(), loader(), path, **EXPORT)
    kept = 5 * (len(names(tmp_path)) - 1)
    assert raised.value.__notes__ == [
        f"{path}.partial keeps {kept} rows; resume=True goes on there"
    ]
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_errors_of_the_loader_stay_what_they_are(tmp_path: Path) -> None:
    error = FileNotFoundError(2, "No such file or directory", "image.jpg")
    with pytest.raises(FileNotFoundError):
        export_pool(TwoTower(), ending(loader(), 1, error), tmp_path / "p.h5", n=22, **EXPORT)


def test_ids_seen_before_are_found_in_later_shards(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    batches = list(loader())
    batches[3]["id"][1] = "s01"
    for options in ({}, {"resume": True}):
        with pytest.raises(MmselectError, match="/id: row 16: expected unique ids, found 's01' ag"):
            export_pool(TwoTower(), batches, path, **EXPORT | options)
        assert names(tmp_path) == partial(0, 1, 2)


def test_ids_of_one_hash_are_not_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "hashes_of", lambda ids: np.zeros(len(ids), np.int64))
    export_pool(TwoTower(), loader(), tmp_path / "pool.h5", **EXPORT)
    assert len(read(tmp_path / "pool.h5")["/id"]) == 22


def test_tidying_up_hides_no_error(tmp_path: Path) -> None:
    def batches() -> Iterator[Any]:
        yield from list(loader())[:2]
        shutil.rmtree(tmp_path / "pool.h5.partial")
        raise ValueError("a broken image")

    with pytest.raises(ValueError, match="a broken image"):
        export_pool(TwoTower(), batches(), tmp_path / "pool.h5", n=22, **EXPORT)


@pytest.mark.parametrize("join", [True, False])
def test_more_shards_than_files_that_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, join: bool
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    path, x = tmp_path / "pool.h5", torch.arange(50.0)[:, None]
    batches = [{"x": x[i : i + 1], "id": [f"s{i}"]} for i in range(50)]
    options = {"function": lambda b: {"features/x": b["x"]}, "ids": "id", "join": join, "n": 50}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    few = [number for number in range(len(taken) + 20) if number not in taken][-1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        with pytest.raises(KeyboardInterrupt):
            export_pool(
                torch.nn.Identity(), ending(batches, 45, KeyboardInterrupt()), path, **options
            )
        export_pool(torch.nn.Identity(), batches, path, resume=True, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    made = [path] if join else sorted(path.iterdir())
    assert len(made) == (1 if join else 50)
    with mmselect.open_pool(made) as pool:
        assert np.array_equal(pool.columns["/features/x"][:], x.numpy())
