"""Live progress of the graph: one bar a series on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class GraphProgress:
    """Context manager whose ``callback`` takes Nipype's node events (it runs in the main process).

    Parameters
    ----------
    groups
        Prefix of a node's full name -> title of its bar.
    names
        Full names of all nodes of the graph.
    """

    def __init__(self, groups: dict[str, str], names: list[str]):
        self._groups = groups
        self._console = Console(file=sys.stderr)
        self._totals = {}
        for name in names:
            prefix = self._prefix(name)
            self._totals[prefix] = self._totals.get(prefix, 0) + 1
        self._done = dict.fromkeys(self._totals, 0)
        self._running = {prefix: [] for prefix in self._totals}
        self._start = time.monotonic()
        self._bars = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn('{task.description}'),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn('{task.fields[running]}'),
                console=self._console,
            )
            self._tasks = {
                prefix: self._bars.add_task(groups.get(prefix, 'all'), total=total, running='')
                for prefix, total in self._totals.items()
            }

    def _prefix(self, name):
        # the longest prefix wins: a series lies inside its subject
        found = [p for p in self._groups if name == p or name.startswith(p + '.')]
        return max(found, key=len, default='')

    def __enter__(self):
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_):
        if self._bars:
            self._bars.stop()

    def callback(self, node, status):
        """Count the node; ``status`` is Nipype's 'start', 'end' or 'exception'."""
        prefix = self._prefix(node.fullname)
        running = self._running[prefix]
        if status == 'start':
            running.append(node.name)
        else:
            if node.name in running:
                running.remove(node.name)
            self._done[prefix] += 1
        if self._bars:
            self._bars.update(self._tasks[prefix], completed=self._done[prefix], running=', '.join(running))
        else:
            self._print_line(prefix, node, status)

    def _print_line(self, prefix, node, status):
        if status == 'start':
            return
        elapsed = time.monotonic() - self._start
        stage = node.fullname.removeprefix(prefix + '.')
        word = 'FAILED' if status == 'exception' else 'done'
        title = self._groups.get(prefix, 'all')
        self._console.print(
            f'[{elapsed:6.0f} s] {title} {self._done[prefix]}/{self._totals[prefix]} {stage} {word}',
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
