"""The command line: parse, call, print. The only file that knows typer and rich.

Numerical libraries are imported inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmselect import engine
from mmselect.display import (
    fail,
    notices,
    show_aligned,
    show_json,
    show_numbers,
    show_pool,
    show_request,
    show_strategy,
)
from mmselect.errors import MmselectError, NeedsError, UsageError
from mmselect.files import check_targets, make_folder, read_ids
from mmselect.version import __version__

if TYPE_CHECKING:
    from mmselect.request import Request

app = typer.Typer(
    name="mmselect",
    help="Say which samples of a multimodal pool to label next.",
    epilog="Start with: mmselect demo",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing help with rich would double the time it takes to appear
    context_settings={"help_option_names": ["-h", "--help"]},
)

Pools = Annotated[
    list[str], typer.Argument(metavar="POOL", help="Pool file; several are shards of one pool.")
]
StrategyName = Annotated[
    str, typer.Option("--strategy", "-s", metavar="NAME", help="See: mmselect strategies.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("-p", metavar="NAME=VALUE", help="A strategy's parameter; repeatable."),
]
ActivationName = Annotated[
    str | None,
    typer.Option(metavar="softmax|sigmoid-norm", help="How logits become probabilities."),
]
Labeled = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-",
        help="Ids labeled so far; replaces the pool's own mask.",
    ),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="Ids never to pick."),
]
Among = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="Ids to pick from."),
]
IgnoreUnknown = Annotated[
    bool,
    typer.Option("--ignore-unknown", help="Skip ids that the pool does not have."),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Equal seeds give equal picks.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Threads; default: all. No result depends on it.",
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="How much to read at a time. No result depends on it.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notices, only errors.")]
OutputFile = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write here."),
]
DEFAULT_MEMORY = f"{engine.DEFAULT_MEMORY >> 20}MiB"
STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmselect {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Say which samples of a multimodal pool to label next."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(UsageError.exit_code)


@app.command()
def demo(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Where to write; made if it is missing.")
    ] = "mmselect-demo",
) -> None:
    """Write a small real pool and select from it.

    Shows each command that it runs, and what came out. The pool is made of emoji: drawings and
    names, 3 MB.
    """
    from mmselect.demo import play
    from mmselect.output import to_stdout

    to_stdout(f"{line}\n".encode() for line in play(Path(folder)))


@app.command()
def check(pools: Pools, memory: Memory = DEFAULT_MEMORY, quiet: Quiet = False) -> None:
    """List everything that is wrong with a pool.

    One line each. Exit code 1 if anything is. Warnings go to stderr and do not count.
    """
    from mmselect.output import to_stdout
    from mmselect.pool.checking import check as check_pool

    found = check_pool(pools, engine.parse_memory(memory))
    notices(found.warnings, quiet)
    to_stdout(f"{problem}\n".encode() for problem in found.problems)
    if found.problems:
        raise typer.Exit(1)
    notices([f"{', '.join(pools)}: nothing wrong"], quiet, mark="ok")


@app.command()
def info(
    pools: Pools,
    form: Annotated[str, typer.Option("--format", metavar="text|json", help="As what.")] = "text",
    quiet: Quiet = False,
) -> None:
    """Describe a pool and what can run on it.

    Sizes, modalities, datasets, the modality gap, contributions of the modalities, and which
    strategies can run and what the others lack.
    """
    from mmselect.pool.reading import open_pool
    from mmselect.reporting import describe_numbers, describe_pool

    _one_of("format", form, ("text", "json"))
    with open_pool(pools) as pool:
        found = describe_pool(pool)
        notices(found.pop("warnings"), quiet)
        if form == "json":
            show_json({**found, **describe_numbers(pool)})
            return
        show_pool(found)  # before the numbers, of which one may be broken
        show_numbers(describe_numbers(pool))


@app.command()
def strategies(
    pools: Annotated[
        list[str] | None,
        typer.Argument(metavar="POOL", help="Also say what this pool lacks for each."),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="text|json", help="As what.")] = "text",
    quiet: Quiet = False,
) -> None:
    """List every strategy and its parameters.

    Kind, needs, parameters with defaults, and where it comes from.
    """
    from mmselect.pool.reading import open_pool
    from mmselect.reporting import describe_strategies

    _one_of("format", form, ("text", "json"))
    with open_pool(pools) if pools else contextlib.nullcontext() as pool:
        rows, skipped = describe_strategies(pool)
    notices(skipped, quiet)
    if form == "json":
        show_json(rows)
        return
    for row in rows:
        show_strategy(row)


@app.command()
def score(
    pools: Pools,
    strategy: StrategyName = "auto",
    assignments: Assignments = None,
    activation: ActivationName = None,
    labeled: Labeled = None,
    exclude: Exclude = None,
    among: Among = None,
    ignore_unknown: IgnoreUnknown = False,
    output: OutputFile = None,
    form: Annotated[
        str,
        typer.Option("--format", metavar="csv|jsonl|npy|h5", help="As what."),
    ] = "csv",
    threads: Threads = None,
    memory: Memory = DEFAULT_MEMORY,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Score every candidate, one row per sample.

    Candidates are the samples that are neither labeled nor excluded. Larger = label first.
    Columns: id, score, and the strategy's components.
    """
    from mmselect.output import SCORE_FORMS, write
    from mmselect.selection import carry_out_scores

    _one_of("format", form, tuple(SCORE_FORMS))
    lists = _id_lists(labeled, exclude, among)
    check_targets(_targets(output), pools)
    with _prepared(
        pools, strategy, assignments, activation, lists, ignore_unknown, threads, memory, True
    ) as request:
        with _told(request, quiet), _progress(quiet) as progress:
            result = carry_out_scores(request, seed, progress)
        write(result, form, _target(output), request.pool)


@app.command()
def select(
    pools: Pools,
    budget: Annotated[
        str,
        typer.Option(
            "--budget", "-b", metavar="N|P%", help="How many to pick, or a share of all rows."
        ),
    ],
    strategy: StrategyName = "auto",
    assignments: Assignments = None,
    activation: ActivationName = None,
    seed: Seed = 0,
    labeled: Labeled = None,
    exclude: Exclude = None,
    among: Among = None,
    ignore_unknown: IgnoreUnknown = False,
    clip_budget: Annotated[
        bool,
        typer.Option(
            "--clip-budget",
            help="Pick all candidates if the budget is larger.",
        ),
    ] = False,
    output: OutputFile = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="ids|indices|csv|jsonl|json|label-studio|npy",
            help="As what.",
        ),
    ] = "ids",
    nearest: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write, for every candidate, its nearest pick and the distance, as CSV.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run; pick nothing.")
    ] = False,
    threads: Threads = None,
    memory: Memory = DEFAULT_MEMORY,
    quiet: Quiet = False,
) -> None:
    """Select the samples to label next.

    Prints their ids, in pick order.
    """
    from mmselect.output import SELECT_FORMS, write, write_neighbours
    from mmselect.request import count_budget, parse_budget
    from mmselect.selection import carry_out, require_distance

    _one_of("format", form, tuple(SELECT_FORMS))
    parse_budget(budget, 1)  # a budget that is wrong whatever the pool is told before any reading
    lists = _id_lists(labeled, exclude, among)
    if nearest == "-":
        raise UsageError("nearest: expected a file, found '-': standard output takes the picks")
    check_targets(_targets(output, nearest), pools)
    with _prepared(
        pools, strategy, assignments, activation, lists, ignore_unknown, threads, memory
    ) as request:
        with _told(request, quiet):
            k = count_budget(budget, request, clip_budget)
            if nearest is not None:
                require_distance(request)
            if not dry_run:
                with _progress(quiet) as progress:
                    result = carry_out(request, k, seed, progress, nearest is not None)
        if dry_run:
            show_request(request, k, seed, form)
            return
        if nearest is not None and result.nearest is not None:
            write_neighbours(result.nearest, Path(nearest))
        write(result, form, _target(output), request.pool)


@app.command()
def embed(
    pools: Pools,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Write here, as HDF5.")
    ],
    strategy: Annotated[
        str,
        typer.Option("--strategy", "-s", metavar="bmmal|badge", help="Rescaled, or as they are."),
    ] = "bmmal",
    embedding: Annotated[
        str,
        typer.Option(
            "--form", metavar="factors|full|sketch", help="Two factors, their product, or a sketch."
        ),
    ] = "factors",
    dim: Annotated[int, typer.Option(min=1, metavar="D", help="Length of the sketch.")] = 512,
    force: Annotated[
        bool, typer.Option("--force", help="Write the full form even if it seems not to fit.")
    ] = False,
    assignments: Assignments = None,
    seed: Seed = 0,
    labeled: Labeled = None,
    exclude: Exclude = None,
    among: Among = None,
    ignore_unknown: IgnoreUnknown = False,
    threads: Threads = None,
    memory: Memory = DEFAULT_MEMORY,
    quiet: Quiet = False,
) -> None:
    """Write the candidates' gradient embeddings.

    Rescaled by the contributions of the modalities (bmmal), or as they are (badge).
    """
    from mmselect.embedding import FORMS, STRATEGIES, write_embedding

    _one_of("form", embedding, FORMS)
    _one_of("strategy", strategy, STRATEGIES)
    lists = _id_lists(labeled, exclude, among)
    if _target(output) is None:
        raise UsageError("output: expected a file, since HDF5 is not written to standard output")
    check_targets([Path(output)], pools)
    with (
        _prepared(
            pools, strategy, assignments, None, lists, ignore_unknown, threads, memory
        ) as request,
        _told(request, quiet),
        _progress(quiet) as progress,
    ):
        write_embedding(
            request,
            Path(output),
            form=embedding,
            dim=dim,
            seed=seed,
            force=force,
            progress=progress,
        )


@app.command()
def align(
    pools: Pools,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Write the aligned pool here.")
    ],
    dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="D",
            help="Width of the shared space; default: that of the narrowest modality, up to 512.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the pool.")] = 25,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Epochs before there are prototypes; default: a fifth."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(metavar="RATE", help="Largest learning rate.")] = 3e-3,
    batch_size: Annotated[
        int, typer.Option(min=2, metavar="N", help="Samples contrasted with each other.")
    ] = 256,
    prototypes: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="K",
            help="Clusters of each modality, 0: none; default: one for 44 samples, up to 5000.",
        ),
    ] = None,
    tau: Annotated[float, typer.Option(metavar="TAU", help="Temperature.")] = 0.07,
    device: Annotated[
        str,
        typer.Option(metavar="auto|cpu|cuda", help="Where to train; auto: a GPU if there is one."),
    ] = "auto",
    form: Annotated[
        str, typer.Option("--format", metavar="text|json", help="The report, as what.")
    ] = "text",
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Equal seeds give equal pools.")
    ] = 0,
    threads: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Threads of torch; with others, last digits may differ."
        ),
    ] = 1,
    memory: Memory = DEFAULT_MEMORY,
    quiet: Quiet = False,
) -> None:
    """Bring the features of all modalities into one space.

    Trains one linear projector per modality, without labels (stage 1 of MMCSAL), and writes a new
    pool. Prints the modality gap before and after. Needs torch.
    """
    with _extra("align", "torch", "torch"):
        from mmselect.torch import align_features

    _one_of("format", form, ("text", "json"))
    if _target(output) is None:
        raise UsageError("output: expected a file, since HDF5 is not written to standard output")
    with _progress(quiet) as progress:
        made = align_features(
            pools,
            output,
            dim=dim,
            epochs=epochs,
            warmup=warmup,
            rate=rate,
            batch_size=batch_size,
            prototypes=prototypes,
            tau=tau,
            seed=seed,
            device=device,
            threads=threads,
            memory=engine.parse_memory(memory),
            progress=progress,
        )
    notices(made.warnings, quiet)
    if form == "json":
        show_json(made.report)
    else:
        show_aligned(made.report)


@app.command()
def replay(
    context: typer.Context,
    pools: Pools,
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            "-s",
            metavar="NAME,…",
            help="What to compare; with parameters: smem:diversify=4.",
        ),
    ] = "bmmal,badge,smem,entropy,random",
    budget: Annotated[
        str,
        typer.Option(
            "--budget", "-b", metavar="N|P%", help="Picks of a round; P% of those to pick from."
        ),
    ] = "2%",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often to pick.")] = 5,
    start: Annotated[
        str,
        typer.Option(
            metavar="NAME|labeled",
            help="Strategy that picks the first samples; labeled: those of the pool.",
        ),
    ] = "random",
    start_budget: Annotated[
        str | None,
        typer.Option(metavar="N|P%", help="Samples to start with; default: the budget."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="How many seeds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The first of them.")] = 0,
    test_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share to test on; default: /metadata/split, or 0.2 where there is none.",
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="ACCURACY",
            help="Accuracy whose price in labels is compared; default: the last of random.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes.")] = 1,
    report: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Also write a page with figures, and the runs, here."),
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Keep finished runs here, and go on from them; default: runs in the report.",
        ),
    ] = None,
    output: OutputFile = None,
    form: Annotated[
        str, typer.Option("--format", metavar="text|csv|json", help="As what.")
    ] = "text",
    quiet: Quiet = False,
) -> None:
    """Play active learning on a pool with known labels.

    Which strategy to trust on this data: select, reveal labels, refit linear heads, measure, for
    every strategy and seed. Says which differences are more than noise.
    """
    from mmselect.output import emit
    from mmselect.replay.runs import replay as play
    from mmselect.replay.summary import check_target, summarize
    from mmselect.replay.tables import FORMS

    _one_of("format", form, tuple(FORMS))
    check_target(target)
    check_targets(_targets(output), pools)
    if report:
        with _extra("report", "matplotlib", "report"):
            from mmselect.replay.report import write_report
        make_folder(Path(report))
    folder = Path(runs) if runs else Path(report) / "runs" if report else None
    if folder is not None:
        make_folder(folder)
    with _kept(folder, quiet), _progress(quiet) as progress:
        found = play(
            pools,
            [name.strip() for name in strategies.split(",")],
            rounds=rounds,
            budget=budget,
            start=start,
            start_budget=start_budget,
            seeds=seeds,
            seed=seed,
            test_fraction=test_fraction,
            jobs=jobs,
            folder=folder,
            progress=progress,
        )
    summary = summarize(found, target)
    notices(found.warnings, quiet)
    if report:
        command = shlex.join(["mmselect", *context.obj])
        page, *_ = write_report(found, summary, Path(report), command)
        notices([f"report: {page}"], quiet)
    emit(FORMS[form](found, summary), _target(output))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; turn what went wrong into one line and an exit code.

    Parameters
    ----------
    arguments : list of str, optional
        What follows ``mmselect``; default: this process's arguments.
    """
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # there is no SIGHUP on Windows
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda number, _: sys.exit(128 + number))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    usage_error: type[Any] = typer.BadParameter.__mro__[1]  # wherever typer keeps its click
    try:
        given = sys.argv[1:] if arguments is None else arguments
        code = app(given, prog_name="mmselect", standalone_mode=False, obj=given)
    except usage_error as error:
        command = error.ctx.command_path if error.ctx else "mmselect"
        return fail(
            f"{error.format_message().rstrip('.')}; try: {command} --help", UsageError.exit_code
        )
    except MmselectError as error:
        return fail(str(error), error.exit_code)
    except MemoryError:
        return fail("not enough memory; try a smaller --memory, or fewer candidates", 1)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # a help page whose reader has gone
            return 0
        raise
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        return fail("interrupted", 130)
    return int(code or 0)


@contextlib.contextmanager
def _extra(what: str, package: str, extra: str) -> Iterator[None]:
    """Say how to install a package that an import in the block lacks, before any work is done."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        message = f"{what} needs {package}; install it with: pip install 'mmselect[{extra}]'"
        raise NeedsError(message) from None


@contextlib.contextmanager
def _kept(folder: Path | None, quiet: bool) -> Iterator[None]:
    """Say, when a replay is interrupted, that its finished runs are not lost."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None:
            notices([f"finished runs are in {folder}; the same command goes on from them"], quiet)
        raise


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")


def _target(output: str | None) -> Path | None:
    """Where to write; None for standard output, by any of its names."""
    return None if output is None or output in STDOUT else Path(output)


def _targets(*outputs: str | None) -> list[Path]:
    return [target for target in map(_target, outputs) if target is not None]


def _id_lists(
    labeled: str | None, exclude: str | None, among: str | None
) -> dict[str, list[str] | None]:
    """Read the lists of ids; only one of them can be standard input."""
    sources = {"labeled": labeled, "exclude": exclude, "among": among}
    if len(from_stdin := [f"--{name}" for name, s in sources.items() if s == "-"]) > 1:
        raise UsageError(f"expected one list from standard input, found {', '.join(from_stdin)}")
    return {name: None if s is None else read_ids(s) for name, s in sources.items()}


def _assigned(assignments: Sequence[str] | None) -> dict[str, str]:
    """Turn ``NAME=VALUE`` into a mapping."""
    parameters: dict[str, str] = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"-p: expected NAME=VALUE, found {assignment!r}")
        if name in parameters:
            raise UsageError(f"-p: expected {name} once, found it twice")
        parameters[name] = value
    return parameters


@contextlib.contextmanager
def _prepared(
    pools: list[str],
    strategy: str,
    assignments: list[str] | None,
    activation: str | None,
    lists: dict[str, list[str] | None],
    ignore_unknown: bool,
    threads: int | None,
    memory: str,
    scores_only: bool = False,
) -> Iterator[Request]:
    """Open a pool and decide what will be done with it."""
    from mmselect.pool.reading import open_pool
    from mmselect.request import prepare

    parameters, at_once = _assigned(assignments), engine.parse_memory(memory)
    with open_pool(pools) as pool:
        yield prepare(
            pool,
            strategy,
            parameters=parameters,
            activation=activation,
            ignore_unknown=ignore_unknown,
            threads=threads,
            memory=at_once,
            scores_only=scores_only,
            **lists,
        )


@contextlib.contextmanager
def _told(request: Request, quiet: bool) -> Iterator[None]:
    """Print what the request warns of: what is known now, and then what the work found."""
    told = len(request.warnings)
    notices(request.warnings, quiet)
    yield
    notices(request.warnings[told:], quiet)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a progress report that draws a bar, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
