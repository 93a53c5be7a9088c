"""Options as typer wants them, and what every command does around its work."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from mmselect.cli.completion import completer, quietly, words
from mmselect.cli.examples import EXAMPLES
from mmselect.errors import UsageError
from mmselect.lists import read_list
from mmselect.option import Asked, Option, names, one_of, options
from mmselect.progress import Progress, phase
from mmselect.terminal import bar, notices, page

if TYPE_CHECKING:
    from mmselect.ask import Ask
    from mmselect.output.tables import How
    from mmselect.pool.reading import Pool
    from mmselect.request import Request

UNBROKEN = "\u2011"
"""A hyphen at which no line is broken, while help is laid out."""

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

Pools = Annotated[
    list[str], typer.Argument(metavar="POOL", help="Pool file; several are shards of one pool.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notices, only errors.")]
OutputFile = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write to this file, not to standard output; its ending says the format.",
    ),
]
HDF5File = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, as HDF5.")
]


def form_option(*names: str) -> Any:
    """Make the option that says as what a result is written; the first one is the default."""
    listed = ", ".join(names)
    help = f"{listed}. Without it the ending of -o decides, else it is {names[0]}."
    complete = quietly(words(*names))
    return typer.Option("--format", metavar="FORMAT", help=help, autocompletion=complete)


def _text_or_json(form: str) -> str:
    return str(one_of("text", "json")("format", form))


TextOrJson = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="text|json",
        help="As what to print it.",
        autocompletion=completer("form", "text|json"),
        callback=_text_or_json,
    ),
]
ColumnNames = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME,…",
        help="Columns of /metadata that go along with each sample.",
        autocompletion=completer("columns", None),
    ),
]

Command = TypeVar("Command", bound=Callable[..., Any])


class OnceCommand(TyperCommand):
    """A command that takes each option once, unless it may be repeated; its help has examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option that is given twice, where the last would win, or given no value."""
        if ctx.resilient_parsing:  # a shell asks what may come next, on a line that is not done
            return super().parse_args(ctx, args)
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for i, option in enumerate(order):
            if option.param_type_name != "option":
                continue
            values = given[option.name] if option.multiple else [given[option.name]]
            if not option.multiple and option in order[:i]:
                raise UsageError(f"{option.opts[0]}: expected once, found it twice")
            if "" in values:
                raise UsageError(f"{option.opts[0]}: expected a value, found ''")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Name the arguments as the reference does, without the types of Python."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return [*(self._place(argument) for argument in arguments), "[OPTIONS]"]

    @staticmethod
    def _place(argument: Any) -> str:
        """Show one argument; a metavar with several words stands as it is."""
        if " " in argument.metavar:
            return str(argument.metavar)
        place = f"{argument.metavar}{'...' if argument.nargs < 0 else ''}"
        return place if argument.required else f"[{place}]"

    def format_epilog(self, _context: Any, formatter: Any) -> None:
        """Show the command's examples, line by line as they are typed."""
        if lines := EXAMPLES.get(self.name or ""):
            with formatter.section("Examples"):
                for line in "\n".join(lines).split("\n"):
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Show arguments and options without the types of Python."""
        for kind in ("argument", "option"):
            params = (p for p in self.get_params(ctx) if p.param_type_name == kind)
            records = [record for p in params if (record := p.get_help_record(ctx))]
            if records:
                with formatter.section(f"{kind.title()}s"):
                    shown = [(n.split(" <")[0], text.replace("-", UNBROKEN)) for n, text in records]
                    formatter.write_dl(shown)

    def get_help(self, ctx: Any) -> str:
        """Make the page, in which no name was broken at its hyphen."""
        return str(super().get_help(ctx)).replace(UNBROKEN, "-")


class Later(TyperCommand):
    """A command that is made when it is called, as the page of all commands needs no options."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function.__name__, help=inspect.getdoc(function))
        self.function = function

    @functools.cached_property
    def made(self) -> Any:
        """The command itself."""
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cls=OnceCommand)(with_options(self.function))
        return typer.main.get_command(alone)

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Let the command itself read what follows its name."""
        return self.made.make_context(*given, **more)


def with_options(command: Command) -> Command:
    """Give a command one option per field of its `ask`, and as `ask` what was said, checked."""
    signature = inspect.signature(command, eval_str=True)
    if "ask" not in signature.parameters:
        return command
    ask = signature.parameters["ask"].annotation
    asked = {name: _parameter(ask, name, option) for name, option in options(ask).items()}

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        said = {name: given.pop(name) for name in asked}
        return command(**given, ask=_read(ask, said))

    before = [p for p in signature.parameters.values() if p.name != "ask"]
    first = [p for p in before if p.default is inspect.Parameter.empty]
    parameters = [*first, *asked.values(), *(p for p in before if p not in first)]
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    run.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run  # type: ignore[return-value]


def _parameter(ask: type[Asked], name: str, option: Option) -> inspect.Parameter:
    """One field as a parameter that typer understands: text, a flag, or a list of texts."""
    default: Any = getattr(ask, name)
    names = option.names or (f"--{name.replace('_', '-')}",)
    kind: Any = bool
    if option.metavar:
        kind = list[str] | None if option.many else str | None
        words = default if isinstance(default, tuple) else (default,)
        default = None if default is None else ",".join(map(str, words))
    if option.required:
        default = inspect.Parameter.empty
    info = typer.Option(
        *names,
        metavar=option.metavar or None,
        help=option.help,
        autocompletion=completer(name, option.metavar),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _read(ask: type[Asked], said: dict[str, Any]) -> Asked:
    """Check what was said, and then read the lists; only one of them can be standard input."""
    known, given = options(ask), {n: v for n, v in said.items() if v is not None and v != []}
    lists = {name: given.pop(name) for name in list(given) if known[name].lists}
    checked = ask(**given)
    stdin = [f"--{name}" for name, sources in lists.items() for s in sources if s == "-"]
    if len(stdin) > 1:
        raise UsageError(f"expected one list from standard input, found {', '.join(stdin)}")
    read = {name: [read_list(s) for s in sources] for name, sources in lists.items()}
    return replace(checked, **read)


def how_to(columns: str | None, predict: str | None = None) -> How:
    """Read what goes along with a result."""
    from mmselect.output.tables import How

    along = None if columns is None else names("columns", columns)
    if predict is None:
        return How(along)
    control, colon, shown = predict.partition(":")
    if not control or not colon or not shown:
        raise UsageError(f"predict: expected FROM:TO, found {predict!r}")
    return How(along, (control, shown))


def target_of(output: str | None) -> Path | None:
    """Where to write; None for standard output, by any of its names."""
    return None if output is None or output in STDOUT else Path(output)


def parts_of(output: str | None, split: int | None) -> list[Path | None]:
    """Where to write: one target, or as many as the picks are dealt to."""
    if split is None:
        return [target_of(output)]
    if split < 1:
        raise UsageError(f"split: expected a whole number of at least 1, found {split}")
    if output is None or output.count("{}") != 1:
        expected = "{} once in -o, where the number of each file goes"
        raise UsageError(f"split: expected {expected}, found {repr(output) if output else 'no -o'}")
    return [Path(output.replace("{}", str(part + 1))) for part in range(split)]


def targets(*outputs: str | None) -> list[Path]:
    """Files among the outputs."""
    return [target for target in map(target_of, outputs) if target is not None]


def file_target(output: str) -> Path:
    """Where to write HDF5, which standard output does not take."""
    if (target := target_of(output)) is None:
        raise UsageError("output: expected a file, since HDF5 is not written to standard output")
    return target


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    from mmselect.output.emitting import to_stdout
    from mmselect.output.tables import as_json

    to_stdout([f"{as_json(value, indent=1)}\n".encode()])


def show_report(report: Any, form: str | None) -> None:
    """Print a report as tables for people, or its fields as JSON."""
    from mmselect.describe.report import as_data

    show_json(as_data(report)) if form == "json" else show(report.rows())


def show(tables: Iterable[Sequence[tuple[Any, ...]]]) -> None:
    """Print tables, laid out for the terminal at hand, or for a pipe."""
    from mmselect.output.emitting import to_stdout
    from mmselect.output.layout import aligned

    width, paint = page()
    for table in tables:
        to_stdout(aligned(table, width, paint), safe=True)


@contextlib.contextmanager
def prepared(
    pools: list[str], ask: Ask, quiet: bool, scores_only: bool = False
) -> Iterator[Request]:
    """Open a pool and decide what will be done with it; people are told how far it is."""
    from mmselect.request import prepare

    with progress_bar(quiet) as progress, opened(pools, progress) as pool:
        yield prepare(pool, ask, scores_only, progress)


@contextlib.contextmanager
def opened(pools: list[str], progress: Progress | None) -> Iterator[Pool]:
    """Open a pool; the ids of a large one take a while."""
    from mmselect.pool.reading import open_pool

    with phase(progress, "opening the pool"):
        pool = open_pool(pools)
    with pool:
        yield pool


@contextlib.contextmanager
def told(request: Request, quiet: bool) -> Iterator[None]:
    """Print what the request warns of: what is known now, and then what the work found."""
    known = len(request.warnings)
    notices(request.warnings, quiet)
    yield
    notices([*request.warnings[known:], *request.notices], quiet)


def progress_bar(quiet: bool, text: str = "working") -> contextlib.AbstractContextManager[Any]:
    """Yield a progress report: bars on a terminal, a line a minute elsewhere."""
    return bar(text, hidden=quiet)
