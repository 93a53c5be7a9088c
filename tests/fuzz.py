"""Hand mmselect pools that somebody spoilt, as long as one likes; see the folder ``fuzzing``.

    python tests/fuzz.py --minutes 60 --seed 7 --keep /tmp/bad

Prints how many inputs were tried and how the commands ended; exit code 1 if any ended as none may.
An input is made from the seed and its number alone: ``--first 123 --inputs 1`` makes it again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzzing.fleet import fuzz, work


def main() -> int:
    """Run the driver, or the worker that the driver starts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--inputs", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for inputs with a bad end")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        seed, first, folder = given.work
        work(int(seed), int(first), Path(folder))
        return 0
    last = given.first + given.inputs
    found = fuzz(given.seed, given.first, last, 60 * given.minutes, given.keep)
    print(found.text())
    return 1 if found.bad else 0


if __name__ == "__main__":
    sys.exit(main())
