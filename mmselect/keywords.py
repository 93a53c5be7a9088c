"""The options of a class as keyword arguments of a Python function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast, get_type_hints

from mmselect.errors import unexpected
from mmselect.option import Asked, options

Function = TypeVar("Function", bound=Callable[..., Any])


def accepts(ask: type[Asked], besides: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Show the fields of `ask` as keyword arguments of a function that takes ``**asked``.

    They stand in its signature, and in its docstring in place of ``{options}``. A keyword that is
    neither there nor in `besides` is a `TypeError` that names the one it is most like.

    Examples
    --------
    >>> from mmselect.ask import Reading
    >>> @accepts(Reading)
    ... def read(pool, **asked): ...
    >>> read("pool.h5", memroy="4GB")
    Traceback (most recent call last):
    TypeError: read: unexpected keyword argument 'memroy'; did you mean 'memory'?
    """

    def decorate(function: Function) -> Function:
        signature, known = inspect.signature(function), options(ask)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        types, kind = get_type_hints(ask), inspect.Parameter.KEYWORD_ONLY
        more = [
            inspect.Parameter(name, kind, default=getattr(ask, name), annotation=types[name])
            for name in known
            if name not in signature.parameters
        ]
        taken = [*(p.name for p in (*own, *more)), *besides]

        @functools.wraps(function)
        def checked(*args: Any, **asked: Any) -> Any:
            if wrong := [name for name in asked if name not in taken]:
                raise unexpected(wrong[0], taken, function.__name__)
            return function(*args, **asked)

        shown = "\n    ".join(f"{p.name}\n        {known[p.name].help}" for p in more)
        checked.__doc__ = (function.__doc__ or "").replace("{options}", shown)
        checked.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return cast(Function, checked)

    return decorate
