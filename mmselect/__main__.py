"""``python -m mmselect``, and the ``mmselect`` command."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        gc.disable()  # what imports leave behind is no garbage, and looking for some takes time
        from mmselect.cli import run

        gc.enable()
        code = run()
    except KeyboardInterrupt:  # while modules are still being imported
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
