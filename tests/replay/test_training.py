"""A command of the user's trains in a replay: what it is told, what is made of what it writes.

Most commands here copy a pool that is ready, which takes no time; those that train are
``tiny_trainer.py``.
"""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import LISTENING, Result
from scipy.special import softmax
from test_workers import running, within

import mmselect
from mmselect.core.scores.shapley import contributions, shapley_values
from mmselect.errors import MmselectError, NeedsError, TrainingError, UsageError
from mmselect.replay import replay, report, summarize
from mmselect.replay.linear import coalition_values
from mmselect.replay.tables import verdict

pytestmark = pytest.mark.skipif(os.name != "posix", reason="these commands are for sh")

N, CLASSES = 120, 4
SMALL: dict[str, Any] = {"rounds": 1, "budget": 6, "start_budget": 12, "seeds": 1}
TINY = Path(__file__).with_name("tiny_trainer.py")


class Case:
    """A pool, the same samples as a user's trainer knows them, and a pool that is ready to copy."""

    def __init__(self, folder: Path, **more: Any) -> None:
        rng = np.random.default_rng(5)
        self.folder, self.pool, self.runs = folder, folder / "pool.h5", folder / "runs"
        self.labels = rng.integers(0, CLASSES, N)
        centres = {m: rng.standard_normal((CLASSES, 6)) for m in "ab"}
        self.z = {
            m: (1.5 * c[self.labels] + rng.standard_normal((N, 6))).astype("f4")
            for m, c in centres.items()
        }
        self.ids = [f"s{i:03d}" for i in rng.permutation(N)]
        self.test = np.arange(N) >= 90  # the order of the pool tells them
        split = np.where(self.test, "test", "train").tolist()
        self.given = {"ids": self.ids, "features": self.z, "labels": self.labels}
        self.given |= {"metadata": {"split": split}, **more}
        mmselect.write_pool(self.pool, **self.given)
        self.ready(rng)

    def ready(self, rng: np.random.Generator, **more: Any) -> None:
        """Write what a trained model could say, in another order, with a sample too many."""
        order, ids = rng.permutation(N), [*self.ids, "another"]
        logits = {m: (2 * rng.standard_normal((N + 1, CLASSES))).astype("f4") for m in "abf"}
        order = np.append(order, N)
        self.fused = logits["f"]
        self.alone = {m: logits[m] for m in "ab"}
        self.wide = {m: np.vstack([x, x[:1]]) for m, x in self.z.items()}
        arrays = {"features": self.wide, "unimodal_logits": self.alone} | more
        cut = {
            name: {m: x[order] for m, x in each.items()} for name, each in arrays.items() if each
        }
        path = self.folder / "ready.h5"
        path.unlink(missing_ok=True)
        names = [ids[row] for row in order]
        mmselect.write_pool(path, ids=names, multimodal_logits=self.fused[order], **cut)

    def copy(self, more: str = "") -> str:
        """Copy the pool that is ready; each call leaves a line."""
        calls = shlex.quote(str(self.folder / "calls"))
        ready = shlex.quote(str(self.folder / "ready.h5"))
        return f"echo {{round}} {{labeled}} >> {calls}; {more} cp {ready} {{out}}"

    def train(self, more: str = "") -> str:
        """Train in a moment."""
        data = self.folder / "data.npz"
        np.savez(data, ids=self.ids, **self.z)
        line = shlex.join([sys.executable, str(TINY), str(data)])
        return f"{line} {{labeled}} {{pool}} {{out}} {{seed}} {more}"

    def sleep(self) -> str:
        """Never come to an end, two processes below the shell."""
        pid = shlex.quote(str(self.folder / "pid"))
        return f": {{labeled}} {{out}}; sh -c 'echo $$ > '{pid}'; sleep 300; true'; true"

    @property
    def calls(self) -> list[str]:
        found = [*self.folder.glob("*calls")]
        return found[0].read_text().splitlines() if found else []

    def play(self, strategies: list[str], command: str, **more: Any) -> Any:
        how = SMALL | {"train": command, "folder": self.runs} | more
        return replay(self.pool, strategies, **how)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def read(place: str | Path) -> list[dict[str, str]]:
    with Path(place).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_replay_by_a_command_that_trains(case: Case) -> None:
    """Every number follows from what it wrote; it learns; the number of jobs changes nothing."""
    found = case.play(["entropy", "random"], case.train(), seeds=2, jobs=2, budget=20)
    curve = found.curves("accuracy")["random"]
    assert (curve[:, 1] > 0.5).all() and found.settings["modalities"] == ["a", "b"]
    assert len(case.calls) == 2 * (1 + 2)
    run, place = found.runs[0], {name: i for i, name in enumerate(case.ids)}
    known = [row for batch in run.picks for row in batch]
    (labeled,) = (
        path
        for path in case.runs.glob("trainings/*/labeled.csv")
        if sorted(place[row["id"]] for row in read(path)) == sorted(known)
    )
    told = [(place[row["id"]], int(row["label"])) for row in read(labeled)]
    assert told == [(row, case.labels[row]) for row in sorted(known)]  # in pool order
    with h5py.File(labeled.with_name("out.h5")) as file:
        order = [place[name.decode()] for name in file["id"][:]]
        back = np.argsort(order)
        guess = {p: file[p][:][back][case.test].argmax(axis=1) for p in paths_of(file)}
    truth, last = case.labels[case.test], run.rounds[-1]
    assert last["accuracy"] == (guess["multimodal_logits"] == truth).mean()
    assert last["accuracy.a"] == (guess["unimodal_logits/a"] == truth).mean()
    one = case.play(
        ["entropy", "random"], case.train(), seeds=2, budget=20, folder=case.folder / "b"
    )
    assert [run.picks for run in one.runs] == [run.picks for run in found.runs]
    assert len(case.calls) == 2 * 2 * (1 + 2)
    again = case.play(["entropy", "random"], case.train(), seeds=2, budget=20)
    assert again.rows == found.rows and len(case.calls) == 2 * 2 * (1 + 2)  # nothing is left to do


def paths_of(file: h5py.File) -> list[str]:
    return ["multimodal_logits", *(f"unimodal_logits/{m}" for m in "ab")]


def test_what_strategies_pick_by_is_what_was_written(case: Case) -> None:
    found = case.play(["margin"], case.copy())
    start, picks = found.runs[0].picks
    p = np.sort(softmax(case.fused[:N].astype(float), axis=1), axis=1)
    gap = p[:, -1] - p[:, -2]
    gap[case.test] = gap[start] = np.inf
    assert picks == np.argsort(gap, kind="stable")[:6].tolist()


def test_equal_sets_are_trained_once(case: Case) -> None:
    """Two strategies pick the same, with one job and with several; others do not."""
    same = ["entropy", "entropy:multilabel=false", "entropy:activation=softmax"]
    found = case.play([*same, "random"], case.copy("sleep 0.1;"), jobs=4)
    assert len({str(run.picks) for run in found.runs}) == 2
    assert [line.split()[0] for line in case.calls] == ["0", "1", "1"]
    case.play(["margin", *same], case.copy("sleep 0.1;"), folder=case.runs)
    assert len(case.calls) == 4
    case.play(same[:1], case.copy("sleep 0.1;"), seeds=2)
    assert len(case.calls) == 6  # another seed is another training


def test_nothing_that_a_command_may_read_tells_of_test_rows(case: Case) -> None:
    """All labels that were not revealed are poisoned: not one byte of what is told changes."""
    found = case.play(["entropy", "random"], case.copy())
    told = {p.relative_to(case.runs): p.read_bytes() for p in given_to_commands(case.runs)}
    assert sum(p.name == "labeled.csv" for p in told) == 3
    revealed = {row for run in found.runs for batch in run.picks for row in batch}
    hidden = [row for row in range(N) if row not in revealed]
    poisoned = Case(case.folder / "b" if (case.folder / "b").mkdir() is None else case.folder)
    with h5py.File(poisoned.pool, "r+") as file:
        values = file["label"][:]
        values[hidden] = (values[hidden] + 1) % CLASSES
        file["label"][:] = values
    command = case.copy()
    again = poisoned.play(["entropy", "random"], command)
    assert [run.picks for run in again.runs] == [run.picks for run in found.runs]
    assert again.rows[-1]["accuracy"] != found.rows[-1]["accuracy"]
    after = {p.relative_to(poisoned.runs): p.read_bytes() for p in given_to_commands(poisoned.runs)}
    assert after == told
    names = {name for name, test in zip(case.ids, case.test, strict=True) if test}
    for path in case.runs.glob("trainings/*/labeled.csv"):
        assert not names & {row["id"] for row in read(path)}
    (ids,) = case.runs.glob("trainings/*.csv")
    assert list(read(ids)[0]) == ["id"] and sorted(r["id"] for r in read(ids)) == sorted(case.ids)
    place = np.flatnonzero([row["id"] in names for row in read(ids)])
    assert abs(place.mean() - N / 2) < 15 and np.ptp(place) > 80  # mixed, though the pool is not


def given_to_commands(runs: Path) -> list[Path]:
    return [p for p in runs.glob("trainings/**/*.csv") if p.is_file()]


FAILURES = {
    "exit": r"exit code 1 \(no GPU is free\)",
    "silent": r"expected the command to write \{out\}, found no file there",
    "missing": r"/id: expected every id of \{pool\}, 1 of 120 are missing: s\d+",
    "nan": r"/multimodal_logits: row 3: expected finite numbers, found nan",
    "garbage": r"expected an HDF5 file, found something else",
    "classes": r"expected 4 classes, as the labels of the replay have, found 3",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_one_line_with_the_path_of_its_log(case: Case, how: str) -> None:
    with pytest.raises(TrainingError, match=FAILURES[how]) as error:
        case.play(["random"], case.train(f"--fail {how}"))
    line = str(error.value)
    assert line.startswith("training of round 0, seed 0, on 12 labels: ") and "\n" not in line
    assert Path(line.rpartition("its log: ")[2]).is_file()


def test_a_replay_goes_on_from_what_is_finished(case: Case, cli: Callable[..., Result]) -> None:
    """The third call fails; the same command goes on there. Words of the shell work."""
    stop = shlex.quote(str(case.folder / "stop"))
    command = case.copy(
        f'test ! -e {stop} || test {{round}} = 0 || {{{{ echo "no, ${{HOME}}" && exit 7; }}}};'
    )
    play = ["replay", case.pool, "-s", "entropy,random", "--rounds", 1, "-b", 6, "--seeds", 1]
    play += ["--runs", case.runs, "--train", command]
    (case.folder / "stop").touch()
    failed = cli(*play)
    assert failed.code == 1 and failed.out == "" and len(case.calls) == 2
    assert "found exit code 7 (no, /" in failed.err and failed.err.count("error:") == 1
    (case.folder / "stop").unlink()
    done = cli(*play)
    assert done.code == 0 and "trained by" in done.out and len(case.calls) == 2 + 2
    assert cli(*play).out == done.out and len(case.calls) == 4


def test_a_training_that_takes_too_long_is_ended_with_all_it_started(case: Case) -> None:
    with pytest.raises(TrainingError, match=r"within 1 s, was ended then; its log"):
        case.play(["random"], case.sleep(), timeout="1s")
    assert within(5, lambda: not running({int((case.folder / "pid").read_text())}))


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_ends_the_commands_too(case: Case, number: signal.Signals, jobs: int) -> None:
    play = ["replay", case.pool, "-s", "random", "--rounds", 1, "-b", 6, "--seeds", 2, "-j", jobs]
    play += ["--runs", case.runs, "--train", case.sleep()]
    program = f"{LISTENING}from mmselect.cli import run\nimport sys\nsys.exit(run(sys.argv[1:]))"
    line = [sys.executable, "-c", program, *map(str, play)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        pid = case.folder / "pid"
        assert within(60, lambda: pid.exists() and pid.read_text() != "")
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert within(5, lambda: not running({int(pid.read_text())}))
    finally:
        process.kill()
        process.communicate()


def test_what_goes_on_after_a_kill_is_not_trained_a_second_time(case: Case) -> None:
    """The command of a replay that was killed runs to its end, and its key is held as long."""
    go = shlex.quote(str(case.folder / "go"))
    command = case.copy(f"while test ! -e {go}; do sleep 0.05; done;")
    asked = f"{str(case.pool)!r}, ['random'], folder=Path({str(case.runs)!r}), train={command!r}"
    program = (
        f"from pathlib import Path; from mmselect.replay import replay; replay({asked}, **{SMALL})"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    assert within(60, lambda: len(case.calls) == 1)
    process.kill()
    process.wait()
    other = threading.Thread(target=case.play, args=(["random"], command))
    other.start()
    assert not within(1, lambda: len(case.calls) > 1)
    (case.folder / "go").touch()
    other.join()
    assert len(case.calls) == 3  # its end was not seen, so it is trained again; then round 1


def test_the_plan_counts_calls_and_the_first_one_tells_the_time(
    case: Case, cli: Callable[..., Result]
) -> None:
    command = case.copy()
    play = ["replay", case.pool, "-s", "entropy,random", "--rounds", 2, "-b", 6, "--seeds", 2]
    play += ["--runs", case.runs, "--train", command, "--full", "--train-check"]
    first = cli(*play, "--dry-run")
    assert first.code == 0 and case.calls == []
    assert "at most 13;" in first.out and "known after the first training" in first.out
    done = cli(*play)
    assert "note: the first training took 0." in done.err and "at most 13 take" in done.err
    assert len(case.calls) <= 13
    after = cli(*play, "--seed", 1, "--dry-run", "--format", "json")
    assert '"trainings": 7' in after.out and '"kept": ' in after.out
    assert cli("replay", case.pool, "--dry-run").code == 2


def test_whether_a_trainer_repeats_itself(case: Case, cli: Callable[..., Result]) -> None:
    play = ["replay", case.pool, "-s", "entropy,random", "--rounds", 1, "-b", 6, "--seeds", 1]
    play += ["--runs", case.runs, "--train-check", "--train"]
    exact = cli(*play, case.train())
    assert "note: the trainer repeats itself" in exact.err and len(case.calls) == 4
    assert "equal trainings" not in exact.out
    noisy = cli(*play, case.train("--noise"))
    assert "note: the trainer does not repeat itself: accuracy " in noisy.err
    assert "two equal trainings differ by some " in noisy.out


def test_no_difference_below_the_floor_counts(case: Case) -> None:
    found = case.play(["entropy", "margin", "random"], case.copy(), seeds=3)
    for row, run in zip(found.rows, [r for r in found.runs for _ in r.rounds], strict=True):
        row["accuracy"] = 0
        for i, each in enumerate(run.rounds):
            each["accuracy"] = 0.5 + 0.1 * i * (run.strategy == "entropy") + 0.001 * run.seed * i
    free = summarize(found)
    found.settings["repeats"] = {"floor": 0.08}
    held = summarize(found)
    assert free["strategies"]["entropy"]["area_difference"]["accuracy"][0] == pytest.approx(0.05)
    assert held["floor"] == 0.08 and "floor" not in free
    assert verdict(held)[-1].startswith("two equal trainings differ by some 8.0 points")
    values = [x for row in held["visible"] for x in row if x == x]
    assert all(x >= 0.08 for x in values)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("cp {labeled}", r"expected a command with \{out\}"),
        ("true", r"expected a command with \{labeled\} and \{out\}"),
        ("a {labeled} {out} {sed}", r"found \{sed\}; did you mean 'seed'\?"),
        ("a {labeled} '{out}'", r"found \{out\} in quotes"),
        ('a {labeled} "x={out}"', r"found \{out\} in quotes"),
    ],
)
def test_commands_that_cannot_work_are_refused(case: Case, command: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        case.play(["random"], command)
    assert not case.runs.exists()


def test_options_that_do_not_go_together(case: Case) -> None:
    with pytest.raises(UsageError, match="train: expected --runs or --report"):
        replay(case.pool, ["random"], train=case.copy(), **SMALL)
    for name, value in (("timeout", "2h"), ("train_check", True)):
        with pytest.raises(UsageError, match=f"{name}: expected --train with it"):
            replay(case.pool, ["random"], **SMALL, **{name: value})
    with pytest.raises(UsageError, match="timeout: expected a time above 0"):
        case.play(["random"], case.copy(), timeout="soon")
    with pytest.raises(UsageError, match="strategy: expected one of"):
        case.play(["randm"], case.copy())
    with pytest.raises(MmselectError, match="budget: expected at most the 90 samples"):
        case.play(["random"], case.copy(), rounds=20)
    assert case.calls == []
    with pytest.raises(NeedsError, match=r"out.h5: strategy bald needs /dropout_logits"):
        case.play(["random", "bald"], case.copy())
    assert len(case.calls) == 1  # the start shows what the command writes


def test_every_place_of_a_command(case: Case) -> None:
    """What `{previous}` and `{round}` hold, that `{dir}` is the call's, and that slots differ."""
    said = shlex.quote(str(case.folder / "said"))
    tell = f"printf '%s|' {{round}} {{seed}} {{slot}} {{previous}} {{dir}} {{out}} >> {said};"
    case.play(["random"], case.copy(f"{tell} echo >> {said};"), rounds=2, jobs=2)
    lines = [line.split("|")[:-1] for line in (case.folder / "said").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["0", "0"], ["1", "0"], ["2", "0"]]
    assert {line[2] for line in lines} <= {"0", "1"}
    assert [line[3] for line in lines] == ["", lines[0][5], lines[1][5]]
    assert all(line[5] == f"{line[4]}/out.h5" for line in lines)


def test_first_batches_all_labels_and_the_start_from_the_mask(tmp_path: Path) -> None:
    case = Case(tmp_path, labeled=np.arange(N) % 7 == 0)
    found = case.play(
        ["random"],
        case.copy(),
        rounds=1,
        full=True,
        start="labeled",
        start_budget=None,
    )
    assert [line.split()[0] for line in case.calls] == ["0", "1", "1"]
    assert found.full[0].rounds[0]["labeled"] == 90
    everything = max(case.runs.glob("trainings/*/labeled.csv"), key=lambda p: len(read(p)))
    assert len(read(everything)) == 90
    first = replay(
        case.pool,
        rounds=0,
        start="facility,random",
        budget="6,12",
        seeds=2,
        train=case.copy(),
        folder=case.runs,
    )
    assert len(first.rows) == 8 and len(case.calls) <= 3 + 8
    assert summarize(first)["labeled"] == [6, 12]


def test_pools_without_features_and_exports_without(case: Case) -> None:
    """Features of the pool stand in for those that are not written; a pool needs none."""
    rng = np.random.default_rng(0)
    case.ready(rng, features=None, unimodal_logits=None)
    found = case.play(["facility", "random"], case.copy())
    assert found.settings["modalities"] == [] and len(found.rows) == 4
    mmselect.write_pool(case.pool, **case.given | {"features": None, "unimodal_logits": None})
    bare = case.play(["entropy", "random"], case.copy(), folder=case.folder / "c")
    assert bare.curves("accuracy")["random"].shape == (1, 2)
    with pytest.raises(NeedsError, match="needs /features"):
        case.play(["random"], case.copy(), start="facility", folder=case.folder / "d")


def test_stochastic_passes_and_contributions(case: Case) -> None:
    """`bald` plays on passes that the command exports, contributions follow from a linear head."""
    rng = np.random.default_rng(1)
    weight = {m: rng.standard_normal((CLASSES, 6)).astype("f4") for m in "ab"}
    case.ready(rng)
    with h5py.File(case.folder / "ready.h5", "r+") as file:
        file["dropout_logits"] = rng.standard_normal((N + 1, 3, CLASSES)).astype("f4")
        for m in "ab":
            file[f"classifier/weight/{m}"] = weight[m]
        file["classifier/bias"] = np.zeros(CLASSES, "f4")
    found = case.play(["bald", "bmmal"], case.copy())
    start = found.runs[0].picks[0]
    rows = [i for i in np.flatnonzero(case.test) if case.labels[i] in case.labels[start]]
    partial = [case.z[m][rows] @ weight[m].T.astype(float) for m in "ab"]
    values = coalition_values(partial, np.zeros(CLASSES), case.labels[rows])
    share = contributions(shapley_values(values)).mean(axis=0)
    assert found.rows[0]["contribution.a"] == pytest.approx(share[0], abs=1e-6)


def test_contributions_from_the_logits_of_coalitions(case: Case) -> None:
    rng = np.random.default_rng(2)
    names = ("a", "b", "none")
    logits = {name: rng.standard_normal((N + 1, CLASSES)).astype("f4") for name in names}
    case.ready(rng, coalition_logits=logits)
    found = case.play(["random"], case.copy(), rounds=1)
    start = found.runs[0].picks[0]
    rows = [i for i in np.flatnonzero(case.test) if case.labels[i] in case.labels[start]]
    each = [logits["none"], logits["a"], logits["b"], case.fused]
    p = [softmax(f[rows].astype(float), axis=1)[range(len(rows)), case.labels[rows]] for f in each]
    share = contributions(shapley_values(np.stack(p, axis=1))).mean(axis=0)
    assert found.rows[0]["contribution.b"] == pytest.approx(share[1], abs=1e-6)


def test_shares_are_told_and_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    share = (rng.integers(0, 4, (N, CLASSES)) / 3).astype("f4")
    case = Case(tmp_path, labels=None, label_share=share)
    found = case.play(["entropy:multilabel=true"], case.copy(), rounds=1)
    rows = np.flatnonzero(case.test & share.any(axis=1))
    guess = case.fused[rows].argmax(axis=1)
    assert found.rows[0]["accuracy"] == pytest.approx(share[rows, guess].mean())
    place = {name: i for i, name in enumerate(case.ids)}
    for path in case.runs.glob("trainings/*/labeled.csv"):
        for row in read(path):
            given = dict(pair.split(":") for pair in row["label_share"].split())
            known = {str(c): x for c, x in enumerate(share[place[row["id"]]]) if x}
            assert {c: float(x) for c, x in given.items()} == pytest.approx(known, abs=1e-5)


def test_samples_that_lack_a_modality_are_masked_whatever_was_written(tmp_path: Path) -> None:
    has = np.arange(N) % 3 > 0
    case = Case(tmp_path, present={"b": has})
    with h5py.File(case.folder / "ready.h5", "r+") as file:
        place = {name.decode(): row for row, name in enumerate(file["id"][:])}
        lacking = sorted(
            place[name] for name, there in zip(case.ids, has, strict=True) if not there
        )
        for path in ("features/b", "unimodal_logits/b"):
            values = file[path][:]
            values[lacking] = np.nan
            file[path][:] = values
    found = case.play(["smem", "facility"], case.copy())
    own = case.test & has
    right = case.alone["b"][:N][own].argmax(axis=1) == case.labels[own]
    assert found.rows[0]["accuracy.b"] == right.mean()


def test_constraints_hold_and_the_report_is_written(
    tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_figures", lambda *_: {})  # which take longer than all else here
    vendor = [f"v{i % 3}" for i in range(N)]
    split = np.where(np.arange(N) >= 90, "test", "train").tolist()
    case = Case(tmp_path, metadata={"vendor": vendor, "split": split})
    play = ["replay", case.pool, "-s", "entropy,random", "--rounds", 2, "-b", 6, "--seeds", 2]
    play += ["--group", "vendor:2", "--report", tmp_path / "report", "--target", "99%"]
    done = cli(*play, "--train", case.copy())
    assert done.code == 0, done.err
    assert "labels for 99.0 %" in " ".join(done.out.split())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "trained by" in page and "cp " in page
    assert (tmp_path / "report" / "runs" / "trainings").is_dir()
    rows = read(tmp_path / "report" / "rounds.csv")
    assert {"accuracy", "accuracy.a", "accuracy.b"} <= rows[0].keys()


def test_a_changed_script_is_said(case: Case) -> None:
    script = case.folder / "train.sh"
    script.write_text(f"cp {shlex.quote(str(case.folder / 'ready.h5'))} $1\n")
    command = f"sh {shlex.quote(str(script))} {{out}} {{labeled}}"
    case.play(["random"], command)
    os.utime(script, (2e9, 2e9))
    again = case.play(["random", "entropy"], command)
    assert any("train.sh is newer than trainings that are taken up" in w for w in again.warnings)
