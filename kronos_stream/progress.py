"""The bar that a long command shows on a terminal."""

from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


def bar_on(out: TextIO, *more: ProgressColumn) -> Progress:
    """What is done, of how much, and for how long still; then `more`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20 if more else 40),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *more,
        console=Console(file=out),
        expand=bool(more),
    )
