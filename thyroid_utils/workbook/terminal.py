"""What commands print: text that cannot steer a terminal, and tables."""

import unicodedata
from collections.abc import Iterable
from typing import Any

_COLOURS = {"error": "red", "warning": "yellow", "damaged": "red", "training": "cyan", "unfinished": "yellow"}


def printable(text: str) -> str:
    """Text of a file's name or content without what would steer a terminal: control characters as their codes."""
    return "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter)[0] == "C" else letter for letter in text)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], numbers: Iterable[str] = ()) -> None:
    """Rows below a heading, folded to the terminal's width; what is missing is a dash, what is bad has a colour."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Column, Table

    headings = [Column(name, justify="right" if name in numbers else "left", overflow="fold") for name in columns]
    table = Table(*headings, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        cells = [
            "–" if pd.isna(value) else f"{value:.0f}" if isinstance(value, float) else printable(str(value)) for value in row
        ]
        style = next((colour for word, colour in _COLOURS.items() if word in cells[:2]), None)
        table.add_row(*cells, style=style)
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    console.print(table)
