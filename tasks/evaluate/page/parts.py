"""What every part of the pages is built of."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.evaluate.page.style import STYLE

RESTRICTED = "restricted.html"
"""The page with texts, beside the report's."""


def document(title: str, body: str) -> str:
    """A self-contained page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n"
        "</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table that scrolls by itself where it is too wide; rows are `<tr>`s."""
    cells = "".join(f'<th scope="col">{each}</th>' for each in head)
    named = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{named}><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def section(title: str, note: str, body: str) -> str:
    """A part of the page with its heading; nothing where there is nothing to tell."""
    if not body:
        return ""
    told = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{told}{body}</section>"
