"""What the terminal shows of a run: bars where it is a terminal, plain lines where it is a file or a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from thyroid_utils.workbook.pages import duration_text, seen_from_here

_MARKS = {"finished": "[green]✓[/]", "failed": "[red]✗[/]", "interrupted": "[yellow]■[/]"}


class Display:
    """Told by the runner what happens. `console` is where it is shown, standard output when None."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress: Progress | None = None
        self._tasks: dict[str, int] = {}
        self._current = ""

    @contextmanager
    def running(self, stems: Sequence[str], folder: Path) -> Iterator[None]:
        """Around the whole run."""
        if not self.console.is_terminal:
            counted = f"{len(stems)} notebook{'s' * (len(stems) != 1)}"
            self.console.print(f"{counted} into {seen_from_here(folder)}/", soft_wrap=True, markup=False)
            yield
            return
        columns = [
            TextColumn("{task.fields[mark]} {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[section]}"),
        ]
        with Progress(*columns, console=self.console) as self._progress:
            for stem in stems:
                self._tasks[stem] = self._progress.add_task(stem, start=False, total=None, mark="·", section="")
            yield
        self._progress = None

    def started(self, stem: str) -> None:
        self._current = stem
        if self._progress:
            self._progress.start_task(self._tasks[stem])
            self._progress.update(self._tasks[stem], mark="[cyan]▶[/]")
        else:
            self.console.print(f"{stem} …", soft_wrap=True, markup=False)

    def cell(self, done: int, total: int, section: str) -> None:
        """A cell of the current notebook begins; `section` is the heading that it stands under."""
        if self._progress:
            self._progress.update(self._tasks[self._current], completed=done, total=total, section=escape(section[:48]))

    def ended(self, stem: str, status: str, seconds: float, error: str | None = None) -> None:
        if self._progress:
            task = self._tasks[stem]
            done = {"completed": self._progress.tasks[task].total or 1} if status == "finished" else {}
            section = f"[red]{escape(error)}[/]" if error else ""
            self._progress.update(task, mark=_MARKS[status], section=section, **done)
            self._progress.stop_task(task)
        else:
            self.console.print(f"{stem}: {status} in {duration_text(seconds)}", soft_wrap=True, markup=False)
            if error:
                self.console.print(f"  {error}", soft_wrap=True, markup=False)

    def summary(self, status: str, seconds: float, index: Path) -> None:
        """The last line: how it went, how long it took, where to look."""
        words = {"finished": "Done", "failed": "Done, with a notebook that failed", "interrupted": "Interrupted"}
        line = f"{words[status]} in {duration_text(seconds)}: {seen_from_here(index)}"
        self.console.print(line, soft_wrap=True, markup=False)
