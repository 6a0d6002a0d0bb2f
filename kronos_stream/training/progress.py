"""How a run is shown: a bar on a terminal, plain lines elsewhere."""

from typing import Any, TextIO

from rich.progress import Progress, TextColumn
from rich.table import Column

from ..progress import bar_on


class Shown:
    """Writes to `out`; silent where that is None (all processes but the first)."""

    def __init__(self, out: TextIO | None, title: str, *, done: int, total: int) -> None:
        self._out = out
        self._title, self._total = title, total
        self._bar: Progress | None = None
        self._task: Any = None
        if out is not None and out.isatty():
            # What a narrow terminal has no room for is cut here, not at the bar.
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            self._bar = bar_on(out, TextColumn("{task.fields[values]}", table_column=rest))
            self._task = self._bar.add_task(title, total=total, completed=done, values="")
            self._bar.start()

    def step(self, done: int) -> None:
        """A step was taken."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def values(self, done: int, what: str, values: dict[str, float]) -> None:
        """Something was measured."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None and what == "train":
            self._bar.update(self._task, values=text)
        elif self._out is not None:
            self.say(f"{self._title} {done}/{self._total} {what}  {text}")

    def say(self, line: str) -> None:
        """One line."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif self._out is not None:
            self._out.write(line + "\n")
            self._out.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
