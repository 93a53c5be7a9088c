"""What a selection keeps for the next round: same picks with and without, whatever lies there."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import mmselect
from mmselect.core.coverage import inverted, neighbours
from mmselect.errors import OutputError

N, C = 240, 4
SPARSE = {"form": "sparse", "neighbours": 20}
SAID = ("-s", "facility", "-p", "form=sparse", "-p", "neighbours=20", "-b", 30)


def parts(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 8))
    names = ("audio", "image")
    z = {m: centres[rng.integers(0, 12, N)] + rng.normal(size=(N, 8)) for m in names}
    return {
        "ids": [f"x{i:03d}" for i in range(N)],
        "features": {m: x.astype(np.float32) for m, x in z.items()},
        "multimodal_logits": rng.normal(size=(N, C)).astype(np.float32),
        "labeled": np.arange(N) % 11 == 0,
    }


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, **parts())
    return path


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows among which neighbours were looked for, search after search."""
    seen, search = list[int](), neighbours.nearest_neighbours

    def counted(x: Any, *rest: Any) -> Any:
        seen.append(len(x))
        return search(x, *rest)

    monkeypatch.setattr(neighbours, "nearest_neighbours", counted)
    return seen


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_same_bytes_with_and_without(pool: Path, tmp_path: Path, cli, searches: list[int]) -> None:
    kept = tmp_path / "kept"
    plain = cli("select", pool, *SAID, "--format", "json")
    first, second = (cli("select", pool, *SAID, "--format", "json", "--cache", kept) for _ in "ab")
    assert plain.out == first.out == second.out and first.err == second.err == plain.err
    assert searches == [N, N] and len(files(kept)) == 1
    assert "kept" not in plain.out  # provenance knows nothing of it


def test_the_next_round_finds_what_the_last_one_kept(
    pool: Path, tmp_path: Path, searches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmselect.core.coverage.facility.EXACT_UP_TO", 100)
    kept = tmp_path / "kept"
    first = mmselect.select(pool, "facility", 30, parameters=SPARSE, cache=kept)
    with h5py.File(pool, "a") as file:  # a model trained on more labels has other logits
        file["multimodal_logits"][:] = np.random.default_rng(9).normal(size=(N, C))
    how = {"parameters": SPARSE, "labeled": first.ids}
    second = mmselect.select(pool, "facility", 30, cache=kept, **how)
    spread = mmselect.select(pool, "entropy", 30, labeled=first.ids, spread="facility", cache=kept)
    assert searches == [N, N]  # scores are spread over 256 neighbours, not 20
    assert second.ids == mmselect.select(pool, "facility", 30, **how).ids
    again = mmselect.select(pool, "entropy", 30, labeled=first.ids, spread="facility")
    assert spread.ids == again.ids
    assert not {*first.ids} & {*second.ids} and len(files(kept)) == 2


def test_rounds_without_doubt_are_one_selection(pool: Path) -> None:
    how = {"parameters": {**SPARSE, "doubt": "none"}}
    whole = mmselect.select(pool, "facility", 60, **how)
    first = mmselect.select(pool, "facility", 25, **how)
    rest = mmselect.select(pool, "facility", 35, labeled=first.ids, **how)
    assert first.ids + rest.ids == whole.ids


@pytest.mark.parametrize(
    "change",
    ["one value", "a type", "rows left out", "center", "neighbours", "who lacks what", "constants"],
)
def test_whatever_neighbours_depend_on_is_in_the_digest(
    tmp_path: Path, searches: list[int], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    given, kept, how, asked = parts(), tmp_path / "kept", dict(SPARSE), {}
    mmselect.write_pool(tmp_path / "a.h5", **given)
    mmselect.select(tmp_path / "a.h5", "facility", 30, parameters=how, cache=kept)
    if change == "one value":
        given["features"]["image"][77, 3] += 1e-3
    elif change == "a type":
        given["features"]["image"] = given["features"]["image"].astype(np.float64)
    elif change == "rows left out":
        asked = {"exclude": ["x001"]}
    elif change == "center":
        how["center"] = False
    elif change == "neighbours":
        how["neighbours"] = 21
    elif change == "who lacks what":
        given["present"] = {"image": np.arange(N) != 5}
    else:
        monkeypatch.setattr(neighbours, "FLAT_UP_TO", 49_999)
    mmselect.write_pool(tmp_path / "b.h5", **given)
    found = mmselect.select(tmp_path / "b.h5", "facility", 30, parameters=how, cache=kept, **asked)
    again = mmselect.select(tmp_path / "b.h5", "facility", 30, parameters=how, **asked)
    assert len(searches) == 3 and len(files(kept)) == 2
    assert found.ids == again.ids


@pytest.mark.parametrize("what", ["mmselect.core.coverage.neighbours.PROBES", "faiss.__version__"])
def test_lists_depend_on_how_they_are_made_and_by_which_faiss(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    few, many = neighbours.settings(50_000), neighbours.settings(50_001)
    monkeypatch.setattr(what, 7)
    assert neighbours.settings(50_000) == few
    assert neighbours.settings(50_001) != many


def npz(**arrays: Any) -> Callable[[Path, bytes], bytes]:
    def write(_file: Path, raw: bytes) -> bytes:
        buffer = io.BytesIO()
        with np.load(io.BytesIO(raw)) as good:
            np.savez(buffer, **{**good, **{k: v(good) for k, v in arrays.items()}})
        return buffer.getvalue()

    return write


def npy(_file: Path, _raw: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(9))
    return buffer.getvalue()


SPOILT: dict[str, tuple[Callable[[Path, bytes], bytes], str]] = {
    "cut short": (lambda _, raw: raw[:-100], "damaged"),
    "half of it": (lambda _, raw: raw[: len(raw) // 2], "damaged"),
    "nothing in it": (lambda _, raw: b"", "damaged"),
    "a flipped bit": (lambda _, raw: raw[:9000] + bytes([raw[9000] ^ 4]) + raw[9001:], "damaged"),
    "text": (lambda _, raw: b"image,text\n", "pickled|damaged"),
    "another format": (npy, "damaged"),
    "of something else": (npz(key=lambda _: np.array("0" * 64)), "it is of something else"),
    "rows that are not there": (npz(found=lambda old: old["found"] + N), "holds something else"),
    "fewer rows": (npz(found=lambda old: old["found"][1:]), "holds something else"),
    "wider numbers": (npz(similar=lambda old: old["similar"].astype("f8")), "holds something else"),
    "nan": (npz(similar=lambda old: old["similar"] * np.float32("nan")), "holds something else"),
    "one more array": (npz(more=lambda _: np.arange(3)), "holds something else"),
}


@pytest.mark.parametrize("how", list(SPOILT))
def test_what_is_damaged_or_foreign_is_computed_anew(
    pool: Path, tmp_path: Path, cli, how: str
) -> None:
    kept, asked = tmp_path / "kept", ("select", pool, *SAID, "--format", "json")
    good = cli(*asked, "--cache", kept)
    (file,) = files(kept)
    whole, (spoil, said) = file.read_bytes(), SPOILT[how]
    file.write_bytes(spoil(file, whole))
    found = cli(*asked, "--cache", kept)
    assert found.code == 0 and found.out == good.out
    (notice,) = {*found.err.splitlines()} - {*good.err.splitlines()}
    assert notice.startswith(f"note: cache: {file}: not used: ")
    assert any(word in notice for word in said.split("|"))
    with np.load(file) as again, np.load(io.BytesIO(whole)) as before:
        assert all(again[name].tobytes() == before[name].tobytes() for name in before)
    assert cli(*asked, "--cache", kept).err == good.err


def test_spoilt_at_random_it_never_gives_other_picks(pool: Path, tmp_path: Path) -> None:
    kept, how = tmp_path / "kept", {"parameters": SPARSE}
    ids = mmselect.select(pool, "facility", 30, cache=kept, **how).ids
    (file,), rng = files(kept), np.random.default_rng(0)
    whole = file.read_bytes()
    for at in [
        *range(64),
        *rng.integers(0, len(whole), 40),
        *range(len(whole) - 400, len(whole), 9),
    ]:
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << rng.integers(8)
        file.write_bytes(spoilt)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmselect.selection.warn", lambda *_, **__: None)
            assert mmselect.select(pool, "facility", 30, cache=kept, **how).ids == ids


def test_a_folder_that_cannot_be_written_is_told_and_read(
    pool: Path, tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, asked = tmp_path / "kept", ("select", pool, *SAID)
    plain = cli(*asked)
    (tmp_path / "file").write_text("")
    found = cli(*asked, "--cache", tmp_path / "file")
    assert found.code == 0 and found.out == plain.out
    assert f"note: cache: nothing is kept: {tmp_path / 'file'}: cannot be written" in found.err

    def refuse(target: Path) -> Any:
        raise OutputError("cannot be written: read-only file system", file=str(target))

    cli(*asked, "--cache", kept)
    monkeypatch.setattr("mmselect.cache.replacing", refuse)
    assert cli(*asked, "--cache", kept) == plain  # it is read
    shutil.rmtree(kept)
    found = cli(*asked, "--cache", kept)
    assert (found.code, found.out) == (0, plain.out)
    assert "cannot be written: read-only file system" in found.err
    assert "cannot be written" not in cli(*asked, "--cache", kept, "-q").err


def test_runs_at_once_share_a_folder(pool: Path, tmp_path: Path) -> None:
    kept, found = tmp_path / "kept", list[list[str]]()

    def run() -> None:
        how = {"parameters": SPARSE, "cache": kept, "threads": 1}
        found.append(mmselect.select(pool, "facility", 30, **how).ids)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = mmselect.select(pool, "facility", 30, parameters=SPARSE).ids
    assert found == [alone] * 6
    assert len(files(kept)) == 1  # and nothing half written beside it


@pytest.mark.parametrize("strategy", ["facility", "entropy", "coreset"])
def test_where_nothing_is_kept_that_is_told(pool: Path, tmp_path: Path, cli, strategy: str) -> None:
    kept, asked = tmp_path / "kept", ("select", pool, "-s", strategy, "-b", 9)
    plain, found = cli(*asked), cli(*asked, "--cache", kept)
    assert found.out == plain.out and not kept.exists()
    told = "not used: only facility in its sparse form has something to keep"
    assert f"note: cache: {told}\n" in found.err
    planned = cli(*asked, "--cache", kept, "--dry-run", "--format", "json")
    assert json.loads(planned.out)["cache"] == told and told not in planned.err


def test_the_plan_says_what_is_kept(pool: Path, tmp_path: Path, cli) -> None:
    kept, asked = tmp_path / "kept", ("select", pool, *SAID, "--cache", tmp_path / "kept")
    plan = json.loads(cli(*asked, "--dry-run", "--format", "json").out)["cache"]
    assert plan.endswith("38.4 kB of neighbours to keep") and not kept.exists()
    cli(*asked)
    (file,) = files(kept)
    assert plan.startswith(f"{file}: ")
    assert file.stat().st_size == pytest.approx(8 * 20 * N, rel=0.05)
    plan = json.loads(cli(*asked, "--dry-run", "--format", "json").out)["cache"]
    assert plan.endswith("kB of neighbours to read")
    assert "cache" in cli(*asked, "--dry-run").out
    assert "cache" not in cli("select", pool, *SAID, "--dry-run").out


def test_look_keeps_too_when_it_picks(pool: Path, tmp_path: Path, cli, searches: list[int]) -> None:
    kept = tmp_path / "kept"
    cli("select", pool, *SAID, "--cache", kept)
    asked = ("look", pool, *SAID, "-o", tmp_path / "page.html")
    assert cli(*asked, "--cache", kept).code == 0 and searches == [N]


def test_inverted_lists_are_kept(
    pool: Path, tmp_path: Path, searches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "FLAT_UP_TO", 100)
    monkeypatch.setattr(inverted, "LISTED", 64)
    kept, how = tmp_path / "kept", {"parameters": SPARSE}
    one, two = (mmselect.select(pool, "facility", 30, cache=kept, **how) for _ in "ab")
    assert one.provenance == two.provenance and "inverted lists" in one.provenance["form"]
    assert one.ids == two.ids and searches == [N]
