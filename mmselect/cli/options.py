"""Options and commands as typer wants them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from mmselect.cli.completion import completer, quietly, words
from mmselect.cli.examples import EXAMPLES
from mmselect.errors import UsageError
from mmselect.lists import read_list
from mmselect.option import Asked, Option, one_of, options

UNBROKEN = "\u2011"
"""A hyphen at which no line is broken, while help is laid out."""

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
