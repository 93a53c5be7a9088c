"""Write the parts of the documentation that the program knows best; or check that they are fresh.

    python scripts/build_docs.py            # write
    python scripts/build_docs.py --check    # exit 1 and name the pages that are stale

With ``--check``, the examples of all help pages are run too. Three kinds of text are made here:

- ``docs/commands.md``: every command with its options;
- tables between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``: the format, the strategies;
- the output in every block fenced as ``console``, in the README and in docs: each line that begins
  with ``$ `` is run, in one new folder per page, and what it prints is put below it.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import operator
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo

from mmselect.cli import COMMANDS, app
from mmselect.cli import run as run_program
from mmselect.cli.examples import EXAMPLES
from mmselect.cli.options import with_options
from mmselect.pool.schema import FORMAT, SCHEMA, VERSION
from mmselect.strategies import registry

ROOT = Path(__file__).parent.parent


def run(command: str, folder: str | Path) -> str:
    """Run a command and return what it prints, on both streams."""
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    found = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    return "\n".join(line.rstrip() for line in found.stdout.rstrip("\n").split("\n"))


def furnish(folder: str) -> None:
    """Put into a folder what the commands in the docs start from."""
    run("mmselect demo .", folder)
    run(f"python {ROOT / 'examples' / 'emoji_files.py'} .", folder)


def fill_console(page: str, furnished: str) -> str:
    """Run the commands of a page's console blocks and put their output below them."""
    if "```console" not in page:
        return page
    with tempfile.TemporaryDirectory() as parent:
        folder = shutil.copytree(furnished, Path(parent, "folder"))

        def fill(block: re.Match[str]) -> str:
            commands = re.findall(r"^\$ (?:.*\\\n)*.*$", block[1], re.MULTILINE)
            shown = [f"{command}\n{run(command[2:], folder)}".rstrip() for command in commands]
            return "```console\n" + "\n".join(shown) + "\n```"

        return re.sub(r"```console\n(.*?)\n```", fill, page, flags=re.DOTALL)


def command_reference() -> str:
    """Show every command with its arguments and options."""
    parts = [
        "# Commands\n\nMade from the program by `python scripts/build_docs.py`.\n",
        "Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 the work failed, "
        "with one line `error: …`; 2 usage; 130 interrupted.\n",
        "Names of strategies, formats and parameters, and metadata columns of the pool on the "
        "line, complete after `mmselect --install-completion` in bash, zsh and fish, in a new "
        "shell; `mmselect --show-completion` prints the script in place of installing it.\n",
        "Runs on Linux and macOS; on Windows everything but `align` and `export_pool` on GPUs, "
        "tested on Linux with the calls taken away that Windows lacks.\n",
    ]
    for function in map(with_options, COMMANDS):
        parameters = inspect.signature(function, eval_str=True).parameters
        infos = {
            name: p.annotation.__metadata__[0]
            for name, p in parameters.items()
            if hasattr(p.annotation, "__metadata__")  # not the context that typer hands over
        }
        rows = [parameter_row(n, info, parameters[n].default) for n, info in infos.items()]
        name = function.__name__
        parts += [f"## mmselect {name}\n", inspect.cleandoc(function.__doc__ or "")]
        parts += [f"\n`{usage(name)}`\n", "| option | default | meaning |\n|---|---|---|", *rows]
        parts += ["\n```sh", *EXAMPLES.get(name, ()), "```\n"]
    return "\n".join(parts)


def usage(name: str) -> str:
    """Show how a command is called, as its help page does."""
    commands: Any = typer.main.get_command(app)
    command = commands.commands[name].made
    return " ".join(["mmselect", name, *command.collect_usage_pieces(typer.Context(command))])


def failing_examples(furnished: str) -> list[str]:
    """Run the examples of all help pages, in the folder of the demo; name those that fail."""
    failed, skipped = [], set() if find_spec("torch") else {"align"}
    with contextlib.chdir(furnished):
        for command in (name for name in EXAMPLES if name not in skipped):
            failed += [line for line in EXAMPLES[command] if not runs(line)]
    return failed


def runs(line: str) -> bool:
    """Run an example; in this process, which has imported what it needs, unless it has a pipe."""
    words = shlex.split(line.replace("\\\n", " "))
    if "|" in words:
        return subprocess.run(["bash", "-o", "pipefail", "-c", line]).returncode == 0
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_program(words[1:])
    if code:
        print(err.getvalue().strip(), file=sys.stderr)
    return code == 0


def parameter_row(name: str, info: Any, default: Any) -> str:
    """Show one argument or option as a row of a table."""
    if isinstance(info, ArgumentInfo):
        return f"| `{info.metavar}` | | {info.help} |"
    # inside Annotated, typer keeps the first name of an option where its default would stand
    declared = [n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str)]
    names = ", ".join(f"`{n}`" for n in declared or [f"--{name.replace('_', '-')}"])
    value = "" if default is False else f" `{info.metavar or 'N'}`".replace("|", "\\|")
    shown = "required" if default is inspect.Parameter.empty else f"`{default}`"
    hidden = default is None or default is False
    return f"| {names}{value} | {'' if hidden else shown} | {info.help} |"


def format_table() -> str:
    """Show the schema."""
    rows = [
        f"| `{d.path}` | ({', '.join(d.axes)}) | {d.kind} | {d.meaning} |".replace("|-1", "")
        for d in SCHEMA
    ]
    head = [
        f"Attributes of the file: `format` = `{FORMAT}`, `format_version` = `{VERSION}`.\n",
        "| path | axes | type | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def strategy_table() -> str:
    """Show the registry."""
    lines = [
        "| strategy | kind | what it does | needs | parameters | from |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in registry.BUILT_IN.items():
        needs = [*(f"`{need}`" for need in record.needs), *([record.extra] * bool(record.extra))]
        parameters = "<br>".join(
            f"`{p.name}`" + ("" if p.default != p.default else f" = {p.default}") + f": {p.meaning}"
            for p in record.parameters
        )
        cells = (
            f"`{name}`",
            record.kind,
            record.summary,
            "; ".join(needs).replace(" or ", "` or `") or "–",
            parameters or "–",
            record.reference,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"format": format_table, "strategies": strategy_table}


def fill_tables(page: str) -> str:
    """Put each table between its marks."""
    for name, table in TABLES.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if begin in page:
            before, rest = page.split(begin, 1)
            page = f"{before}{begin}{table()}\n{end}{rest.split(end, 1)[1]}"
    return page


def fresh_pages(furnished: str) -> dict[Path, str]:
    """Every page as it should be; two pages at a time, since the work is in other processes."""
    pages = {ROOT / "docs" / "commands.md": command_reference()}
    paths = {ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - set(pages)
    old = {path: fill_tables(path.read_text()) for path in sorted(paths)}
    with ThreadPoolExecutor(2) as pool:
        new = pool.map(fill_console, old.values(), repeat(furnished))
    return pages | dict(zip(old, new, strict=True))


NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
TOLERANCE = 1e-5
"""How far a printed number may lie from today's: sums differ in their last digits between BLAS
kernels, and so between processors."""

REFITTED = re.compile(r"<!-- heads are fitted here -->\n```console\n.*?\n```", re.DOTALL)
"""A block in which heads are fitted to what was picked: one last digit in a logit changes a draw,
and that every later round, and so the ranks. Only its commands and headings are compared."""


def same_page(old: str, new: str) -> bool:
    """Whether two pages agree, numbers with a fraction up to :data:`TOLERANCE`.

    Whole numbers, such as row numbers, must agree exactly, and so must all other text.

    >>> same_page("a,1.2345678", "a,1.2345679"), same_page("a,12", "a,13"), same_page("a", "b")
    (True, False, False)
    """
    old, new = (REFITTED.sub(lambda block: headings(block[0]), page) for page in (old, new))
    if old == new:
        return True
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    return all(a == b or nearly_equal(a, b) for a, b in pairs)


def headings(block: str) -> str:
    r"""Keep commands, and of each table what stands above its first strategy, without numbers.

    >>> headings("$ mmselect replay -s bmmal\naccuracy   62.1 %\nbmmal   +3.4\nface   7\n\nend")
    '$ mmselect replay -s bmmal\naccuracy # %\n\nend'
    """
    strategy, kept = re.compile(rf"\b({'|'.join(registry.BUILT_IN)})\b"), []
    for table in block.split("\n\n"):
        lines = [line for line in table.split("\n") if not line.startswith("note: ")]
        named = (i for i, line in enumerate(lines) if line[:1] != "$" and strategy.search(line))
        kept.append("\n".join(lines[: next(named, None)]))
    return re.sub(r" +|-{2,}", " ", NUMBER.sub("#", "\n\n".join(kept)))


def nearly_equal(a: str, b: str) -> bool:
    """Whether two printed numbers, both with a fraction or an exponent, are nearly equal."""
    if not all(re.search(r"[.e]", text) for text in (a, b)):
        return False
    x, y = (float(text.replace(",", "")) for text in (a, b))
    return math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def broken_links(pages: dict[Path, str]) -> list[str]:
    """Name links and pictures that lead to no file of the repository."""
    return [
        f"{path.relative_to(ROOT)}: {link} does not exist"
        for path, text in pages.items()
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        if not (path.parent / link).exists()
    ]


def main() -> None:
    """Write the pages, or name the stale ones."""
    with tempfile.TemporaryDirectory() as furnished:
        furnish(furnished)
        pages = fresh_pages(furnished)
        failed = failing_examples(furnished) if "--check" in sys.argv else []
    if broken := broken_links(pages):
        sys.exit("\n".join(broken))
    if failed:
        sys.exit("examples of help pages that fail:\n" + "\n".join(failed))
    same = same_page if "--check" in sys.argv else operator.eq
    stale = [p for p, text in pages.items() if not p.exists() or not same(p.read_text(), text)]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run python scripts/build_docs.py")
            old = path.read_text().split("\n") if path.exists() else []
            print(*unified_diff(old, pages[path].split("\n"), n=0, lineterm=""), sep="\n")
        sys.exit(bool(stale))
    for path in stale:
        path.write_text(pages[path])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
