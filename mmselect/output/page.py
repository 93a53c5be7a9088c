"""A page that needs nothing beside it and asks nobody for anything: one file, one dress.

The page's own policy lets it run its own script and style, by their digests, and nothing else.
What users wrote stands in it as JSON, which is no markup, or escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from typing import Any

from mmselect.output.tables import as_json

STYLE = Path(__file__).with_name("page.css")
"""What all pages wear: type, colours for day and night, tables, buttons."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
{tail}</body>
</html>
"""


def assemble(
    title: str, body: str, *, style: str = "", script: str = "", data: Any = None
) -> bytes:
    """Put a page together.

    Parameters
    ----------
    title : str
        As text.
    body : str
        As HTML: whatever users wrote is escaped in it already.
    style, script : str
        What this page has beside the common style.
    data : JSON value, optional
        Found by the script in the element ``data``.

    Returns
    -------
    bytes
        Equal for equal arguments.

    Examples
    --------
    >>> page = assemble("<b>", "<p>Hello</p>", script="go()", data={"x": "</script>"}).decode()
    >>> "<title>&lt;b&gt;</title>" in page, page.count("</script>")
    (True, 2)
    """
    style = STYLE.read_text(encoding="utf-8") + style
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'" if script else "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    tail = f"<script>{script}</script>\n" if script else ""
    if data is not None:
        tail = f'<script type="application/json" id="data">{as_script(data)}</script>\n{tail}'
    page = PAGE.format(
        policy="; ".join(policy), title=html.escape(title), style=style, body=body, tail=tail
    )
    return page.encode()


def as_script(value: Any) -> str:
    r"""Write a value as JSON that may stand between the tags of a script.

    Examples
    --------
    >>> as_script({"a": "<!-- <script>"})
    '{"a": "\\u003c!-- \\u003cscript>"}'
    """
    return as_json(value).replace("<", "\\u003c")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
