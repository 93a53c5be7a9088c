"""An export that ends early leaves a partial pool, and nothing under the final name."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mmselect.errors import MmselectError, OutputError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch_helper import export_models  # noqa: E402
from torch_helper.export_models import EXPORT, TwoTower, data, loader  # noqa: E402
from torch_helper.test_export import read  # noqa: E402

from mmselect.torch import export_pool  # noqa: E402
from mmselect.torch.partial import Journal, PartialPool, Seen  # noqa: E402


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmselect.torch.partial.COMMIT_SECONDS", 0)


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
    return sorted(path.name for path in folder.iterdir() if path.is_file())


PARTIAL = ["pool.h5.partial", "pool.h5.partial.journal"]


def test_killed_and_resumed(tmp_path: Path, whole: bytes) -> None:
    path, after = tmp_path / "pool.h5", 3
    script = [sys.executable, export_models.__file__, str(path), str(after)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(script, env=environment, capture_output=True, cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert names(tmp_path) == PARTIAL
    with h5py.File(tmp_path / PARTIAL[0]) as handle:  # sound, whatever killed the program
        assert len(handle["features/image"]) == 22
    runs: list[int] = []
    model = TwoTower()
    model.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    export_pool(model, loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole
    assert names(tmp_path) == ["pool.h5"]
    again = 1 + 5 - after  # the last one that was written, and those that were not
    assert len(runs) == again * (1 + EXPORT["dropout_passes"])


def test_rows_are_counted_after_they_are_written(tmp_path: Path) -> None:
    """Whenever the program ends, the rows that the journal counts are in the file."""
    path, seen = tmp_path / "pool.h5", []
    real, rows = Journal.append, 0

    def watched(self: Any, lines: Any) -> None:
        nonlocal rows
        rows += sum(json.loads(line).get("rows", 0) for line in lines)
        (tmp_path / "copy.h5").write_bytes((tmp_path / PARTIAL[0]).read_bytes())
        with h5py.File(tmp_path / "copy.h5") as handle:
            seen.append((rows, handle["features/image"][:rows].copy()))
        real(self, lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", watched)
        export_pool(TwoTower(), loader(), path, **EXPORT)
    expected = read(path)["/features/image"]
    assert [rows for rows, _ in seen] == [0, 5, 10, 15, 20, 22, 22]
    assert all(np.array_equal(array, expected[:rows]) for rows, array in seen)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_interrupted_and_resumed(tmp_path: Path, whole: bytes, after: int, known: bool) -> None:
    path = tmp_path / "pool.h5"
    export_some(path, after, n=22 if known else None)
    assert names(tmp_path) == PARTIAL[: 2 * (after > 0)]
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
    note = f"{tmp_path / PARTIAL[0]} keeps 10 rows; resume=True goes on there"
    assert raised.value.__notes__ == [note]


def test_without_resume_it_starts_again(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "pool.h5"
    export_some(path, 3)
    with pytest.raises(MmselectError, match="nearest: fusion"):  # the partial pool stays
        export_pool(TwoTower(), loader(), path, **EXPORT | {"coalitions": "fusions"})
    assert names(tmp_path) == PARTIAL
    export_pool(TwoTower(), loader(), path, **EXPORT)
    assert path.read_bytes() == whole and names(tmp_path) == ["pool.h5"]


def test_a_torn_line_of_the_journal_does_not_count(tmp_path: Path, whole: bytes) -> None:
    path, journal = tmp_path / "pool.h5", tmp_path / PARTIAL[1]
    export_some(path, 3)
    for cut in (5, len(journal.read_bytes()) - 40):  # in the last line; in the first one
        journal.write_bytes(journal.read_bytes()[:-cut])
        export_some(path, 3, resume=True)
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("more", [False, True])
def test_killed_while_text_was_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, more: bool
) -> None:
    path, partial = tmp_path / "pool.h5", tmp_path / PARTIAL[0]

    def torn(self: Any, handle: Any) -> None:
        handle.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartialPool, "_add_text", torn)
        export_pool(TwoTower(), loader(n=20 if more else 22), path, **EXPORT)
    with partial.open("r+b") as handle:  # the worst: HDF5 cannot read it any more
        handle.write(b"\0" * 96)
    with pytest.raises(OSError):
        h5py.File(partial)
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


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
    "ids": (TwoTower, renamed, {}, "/id: row 2: expected 's02', as in .* go on with, found 'oth"),
    "batch size": (TwoTower, lambda: loader(batch_size=4), {}, "/id: row 4: .*'s04', .*nothing"),
    "fewer batches": (TwoTower, lambda: list(loader())[:2], {"n": 22}, "22 rows .*, found 10"),
    "shuffled": (TwoTower, lambda: loader(shuffle=True), {}, "a fixed order to go on with"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_changed_in_between_is_an_error(tmp_path: Path, what: str) -> None:
    model, batches, changes, message = CHANGED[what]
    path = tmp_path / "pool.h5"
    export_some(path, 3)
    before = (tmp_path / PARTIAL[1]).read_bytes()
    with pytest.raises(MmselectError, match=message):
        export_pool(model(), batches(), path, resume=True, **{**EXPORT, **changes})
    assert names(tmp_path) == PARTIAL
    assert (tmp_path / PARTIAL[1]).read_bytes() == before


BROKEN = {
    "no JSON": (1, b"{oops\n", r"pool\.h5\.partial\.journal: cannot be read: expected lines of J"),
    "no mapping": (
        1,
        b"[1]\n",
        "cannot be read: expected lines of JSON, found others; without res",
    ),
    "no settings": (1, b"{}\n", "cannot be read: expected the settings of an export, found none"),
    "no HDF5": (0, b"text", r"pool\.h5\.partial: cannot be read: found no partial pool \("),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_broken(tmp_path: Path, whole: bytes, case: str) -> None:
    which, content, message = BROKEN[case]
    path = tmp_path / "pool.h5"
    export_some(path, 2)
    (tmp_path / PARTIAL[which]).write_bytes(content)
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
            with pytest.raises(OutputError, match="expected no other export, found one at work"):
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
        with pytest.raises(OutputError, match=r"pool\.h5: cannot be written: file too large$"):
            export_pool(torch.nn.Identity(), wide(1000), path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
    export_pool(torch.nn.Identity(), wide(1000), path, resume=True, **options)
    assert len(read(path)["/features/x"]) == 1000


def test_the_note_counts_what_the_journal_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    path, real, full = tmp_path / "pool.h5", Journal.append, []

    def append(self: Any, lines: Any) -> None:
        full.append('"s14"' in lines[0] or bool(full and full[-1]))
        if full[-1]:
            raise OSError(28, "No space left on device")
        real(self, lines)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="no space") as raised:
        patch.setattr(Journal, "append", append)
        export_pool(TwoTower(), loader(), path, **EXPORT)
    assert "keeps 10 rows" in raised.value.__notes__[0]
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_disk_full_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, calls = tmp_path / "pool.h5", os.pwrite, []

    def pwrite(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        if len(calls) % 2:  # the system may take less than it is given
            return real(arguments[0], arguments[1][:3], arguments[2])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OutputError, match=r"pool\.h5: cannot be written: no space left on d"):
            export_pool(TwoTower(), loader(), path, **EXPORT)
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    export_pool(TwoTower(), loader(), tmp_path / "whole.h5", **EXPORT)
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_errors_of_the_loader_stay_what_they_are(tmp_path: Path) -> None:
    error = FileNotFoundError(2, "No such file or directory", "image.jpg")
    with pytest.raises(FileNotFoundError):
        export_pool(TwoTower(), ending(loader(), 1, error), tmp_path / "p.h5", n=22, **EXPORT)


def test_ids_seen_before_are_found_among_many() -> None:
    seen, rng, known = Seen(), np.random.default_rng(0), set[int]()
    for _ in range(300):
        batch = rng.integers(0, 20_000, rng.integers(1, 40)).tolist()
        assert seen.add(batch) == [row for row, name in enumerate(batch) if name in known]
        known |= set(batch)
    assert len(seen.runs) < 15


@pytest.mark.parametrize("n", [22, None])
def test_killed_before_any_row_was_counted(tmp_path: Path, whole: bytes, n: int | None) -> None:
    path, journal = tmp_path / "pool.h5", tmp_path / PARTIAL[1]
    export_some(path, 2, n=n)
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    export_pool(TwoTower(), list(loader()), path, n=n, resume=True, **EXPORT)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_interrupted_while_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, when: str
) -> None:
    """A row is never counted twice: at worst, it is computed again."""
    path, real = tmp_path / "pool.h5", Journal.append

    def append(self: Any, lines: Any) -> None:
        last = '"s14"' in lines[0]
        if last and when == "within":
            self.handle.write(lines[0][:30].encode())
        if not last or when == "after":
            real(self, lines)
        if last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "append", append)
        export_pool(TwoTower(), loader(), path, **EXPORT)
    export_pool(TwoTower(), loader(), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_a_full_disk_while_the_file_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes
) -> None:
    path = tmp_path / "pool.h5"
    monkeypatch.setattr("mmselect.torch.partial.FIRST_ROWS", 10)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="no space left"):
        patch.setattr("mmselect.torch.rawfile.copy_rows", full)
        export_pool(TwoTower(), list(loader()), path, **EXPORT)
    assert names(tmp_path) == PARTIAL
    export_pool(TwoTower(), list(loader()), path, resume=True, **EXPORT)
    assert path.read_bytes() == whole


def test_tidying_up_hides_no_error(tmp_path: Path) -> None:
    def batches() -> Iterator[Any]:
        yield from list(loader())[:2]
        for path in tmp_path.iterdir():
            path.unlink()
        raise ValueError("a broken image")

    with pytest.raises(ValueError, match="a broken image"):
        export_pool(TwoTower(), batches(), tmp_path / "pool.h5", n=22, **EXPORT)
