"""What all tests need, doctests too: no more of torch than there is, and one thread of it."""

import sys
from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["mmselect/torch/*", "mmselect/networks/*"]


def pytest_collection_finish() -> None:
    """Have torch take one thread: with more, processes that test side by side wait in loops."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
