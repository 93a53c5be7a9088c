"""Where torch is not installed, the doctests of its helper are left out."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["mmselect/torch/*"]
