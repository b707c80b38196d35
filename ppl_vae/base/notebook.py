"""What an answer looks like in a notebook: a little HTML by itself, in the report's style, without pictures.

It takes the notebook's own colours for text and paper, so that it is readable on light and on dark ones;
whatever comes from data (names, sentences) is escaped.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from numbers import Real
from typing import Literal

__all__ = ["Tone", "banner", "cell", "items", "panel", "paragraph", "table"]

Tone = Literal["good", "warn", "bad", "neutral"]

# Of the middle of the scale, for edges and badges: seen on white and on black paper.
COLOURS: dict[Tone, str] = {"good": "#2f9e63", "warn": "#c98512", "bad": "#d8544c", "neutral": "#7d8790"}
SIGNS: dict[Tone, str] = {"good": "✓", "warn": "!", "bad": "✕", "neutral": "?"}
EDGE = "1px solid rgba(128,128,128,.35)"
# Of more rows the first are shown.
MOST_ROWS = 12


def panel(title: str, *parts: str) -> str:
    """A block with a heading; the parts are HTML, as the other functions make it."""
    style = (
        f"border:{EDGE};border-radius:.4rem;padding:.5rem .9rem;margin:.25rem 0;max-width:56rem;color:inherit"
    )
    heading = f'<div style="font-weight:700;margin:.1rem 0 .3rem">{escape(title)}</div>'
    return f'<div class="ppl-vae" style="{style}">{heading}{"".join(parts)}</div>'


def paragraph(text: str) -> str:
    """A sentence; nothing for an empty one."""
    return f'<p style="margin:.25rem 0">{escape(text)}</p>' if text else ""


def banner(word: str, tone: Tone, sentence: str = "") -> str:
    """What has to be read first: a word with its sign and colour, and a sentence."""
    colour = COLOURS[tone]
    style = f"border-left:.45rem solid {colour};padding:.1rem .7rem;margin:.3rem 0"
    head = f'<span style="font-weight:700">{SIGNS[tone]} {escape(word)}</span>'
    return f'<div style="{style}">{head}{paragraph(sentence)}</div>'


def items(found: Iterable[str]) -> str:
    """A list of sentences; nothing without any."""
    lines = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<ul style="margin:.25rem 0;padding-left:1.2rem">{lines}</ul>' if lines else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of at most `MOST_ROWS` rows, which says how many more there are; nothing without rows.

    Args:
        columns: headings.
        rows: cells by row; columns with numbers stand at the right, with three decimals or three digits.
    """
    if not rows:
        return ""
    shown = rows[:MOST_ROWS]
    sides = ["right" if any(map(_is_number, column)) else "left" for column in zip(*shown, strict=True)]
    head = _row("th", columns, sides)
    body = "".join(_row("td", row, sides) for row in shown)
    more = f"and {len(rows) - MOST_ROWS:,} more" if len(rows) > MOST_ROWS else ""
    style = "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.3rem 0;color:inherit"
    return (
        f'<div style="overflow-x:auto"><table style="{style}"><thead>{head}</thead>'
        f"<tbody>{body}</tbody></table></div>{paragraph(more)}"
    )


def cell(value: object) -> str:
    """A value as a reader wants it: three decimals, or three digits where that would say nothing."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return str(value)
    number = float(value)
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    if number == int(number) and not isinstance(value, float):
        written = f"{int(number):,}"
    elif abs(number) >= 1000:
        written = f"{number:,.0f}" if abs(number) < 1e6 else f"{number:.3g}"
    else:
        written = f"{number:.3f}" if abs(number) >= 0.001 or number == 0 else f"{number:.1e}"
    return written.replace("-", "−")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _row(tag: str, values: Sequence[object], sides: Sequence[str]) -> str:
    style = f"padding:.2rem .6rem;border-bottom:{EDGE};background:none;color:inherit;text-align:"
    cells = (
        f'<{tag} style="{style}{side}">{escape(cell(value))}</{tag}>'
        for value, side in zip(values, sides, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"
