"""Progress of a run: a live display of running series on a terminal, plain lines elsewhere and in the log."""

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bids_qsm.execution.run_log import RunLog, last_error, printable, used_memory_gb

if TYPE_CHECKING:
    from nipype.pipeline.engine import Node

STAGES = {
    'phase': r'phase_wf\.',
    'field': r'recon_wf\.(field_wf\.|relaxation$)',
    'chi': r'recon_wf\.',
    'labels': r'labels_wf\.',
    'anatomy': r'(anat|align|normalize_\w+|save_\w+)_wf\.|align_flair|place_mask',
}
"""Stage -> pattern of the names of its steps; all other steps belong to the report."""
COLUMNS = ('phase', 'anatomy', 'field', 'chi', 'labels', 'report')
CACHED = 0.05
"""A step without measurement that took less time (s) counts as cached."""


def stage_of(step: str) -> str:
    """The stage that a step belongs to, by its name without the prefix of its series.

    >>> stage_of('recon_wf.field_wf.fit'), stage_of('outputs_wf.save_maps')
    ('field', 'report')
    """
    return next((stage for stage, pattern in STAGES.items() if re.match(pattern, step)), 'report')


@dataclass
class _Work:
    """The steps of a series, or of the anatomy of a subject."""

    owner: dict  # as events name it
    totals: Counter = field(default_factory=Counter)  # by stage
    left: dict = field(default_factory=dict)  # step -> stage
    running: dict = field(default_factory=dict)  # step -> when it began
    failed: set = field(default_factory=set)  # stages
    n_cached: int = 0

    @property
    def n_done(self):
        return self.totals.total() - len(self.left)


class RunProgress:
    """Context manager that shows and logs a run; its ``callback`` takes Nipype's node events.

    Parameters
    ----------
    titles
        Names of all series of the run; their graphs come with :meth:`add`, some subjects at a time.
    log
        The :class:`~bids_qsm.execution.run_log.RunLog` of the run.
    mem_gb, nprocs
        What the run may use (GB, CPUs).
    """

    def __init__(self, titles: Iterable[str], log: RunLog, *, mem_gb: float, nprocs: int):
        self._log, self._mem_gb = log, mem_gb
        self._series_of = {}  # by subject
        for title in titles:
            self._series_of.setdefault(_subject(title), []).append(title)
        self._waiting = set(titles)
        self._n_series, self._n_done, self._lost = len(self._waiting), 0, set()
        self._works, self._nodes, self._told = {}, {}, []
        self._pace = Pace(nprocs)
        self._lock = threading.RLock()
        self._begun = time.monotonic()
        self._console = _console()
        self._live = None
        if sys.stderr.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True
            )

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()
        self._say(self._summary())
        self._print()

    def add(self, groups: dict[str, str], nodes: Iterable[str]):
        """Add a graph before it runs.

        ``groups`` maps prefixes of full names of nodes to the series, or to '<subject> anatomy' for steps
        that its series share; ``nodes`` are the full names of all nodes.
        """
        prefixes = {}
        for prefix, title in groups.items():
            prefixes.setdefault(title, []).append(prefix)
        # names of steps are without the prefix of their series
        common = {title: _common(found) for title, found in prefixes.items()}
        with self._lock:
            for name in nodes:
                title = next((groups[p] for p in _parents(name) if p in groups), None)
                if title is None:
                    continue
                step = name.removeprefix(common[title]).removeprefix('.').removeprefix('wf.')
                owner = {'subject': _subject(title)} if _is_anatomy(title) else {'series': title}
                work = self._works.setdefault(title, _Work(owner))
                stage = stage_of(step)
                work.left[step] = stage
                work.totals[stage] += 1
                self._nodes[name] = title, step
                self._pace.add(title, step)
            for title in set(groups.values()) & set(self._works):
                self._waiting.discard(title)
                work = self._works[title]
                self._log.event('add', **work.owner, n_steps=work.totals.total())

    def callback(self, node: 'Node', status: str):
        """Record the new state of ``node``; ``status`` is Nipype's 'start', 'end' or 'exception'."""
        with self._lock:
            self._note(node, status)
        self._print()

    def _note(self, node: 'Node', status: str):
        # parts of a MapNode do not count, and an 'end' may follow an 'exception'
        if node.fullname not in self._nodes:
            return
        title, step = self._nodes[node.fullname]
        work = self._works[title]
        if status == 'start':
            work.running[step] = time.monotonic()
            self._log.event('start', **work.owner, step=step)
            return
        del self._nodes[node.fullname]
        stage, began = work.left.pop(step), work.running.pop(step, None)
        if status == 'exception':
            work.failed.add(stage)
            self._log.event('failed', **work.owner, step=step, node=node.fullname)
            # other plugins write it only to the crash file
            traceback = ''.join(getattr(node, '_traceback', None) or ())
            reason = ': '.join(filter(None, last_error(traceback)))[:200] if traceback else ''
            self._say(f'{shorten(title, 40)} {shorten(step, 44)} FAILED {reason}', style='red')
        else:
            seconds = 0.0 if began is None else time.monotonic() - began
            self._end(title, step, getattr(node, 'measured', None), seconds)
        self._settle(title)

    def _end(self, title: str, step: str, measured: dict | None, seconds: float):
        work = self._works[title]
        if not measured and seconds < CACHED:
            work.n_cached += 1
            return
        measured = {'seconds': seconds, **(measured or {})}
        self._pace.end(title, step, measured['seconds'])
        rounded = {name: None if value is None else round(value, 3) for name, value in measured.items()}
        self._log.event('end', **work.owner, step=step, **rounded, n_done=work.n_done)
        peak = measured.get('peak_gb')
        text = (
            f'{shorten(title, 40)} {work.n_done}/{work.totals.total()} {shorten(step, 44)} done '
            f'{measured["seconds"]:.1f} s' + ('' if peak is None else f' {peak:.2f} GB')
        )
        self._log.line(text)
        if not self._live:
            self._told.append((text, ''))

    def _settle(self, title: str):
        """Record which series are done or have failed, after a step of ``title`` has ended."""
        shared = f'{_subject(title)} anatomy'
        anatomy = self._works.get(shared)
        if title == shared and not anatomy.left and not anatomy.failed:
            self._log.event('done', **anatomy.owner, n_cached=anatomy.n_cached)
        for name in self._series_of.get(_subject(title), ()) if title == shared else [title]:
            work = self._works.get(name)
            if work is None or name in self._lost:
                continue
            if work.failed or (anatomy and anatomy.failed):
                self._lost.add(name)
            elif not work.left and not (anatomy and anatomy.left):
                self._n_done += 1
                del self._works[name]
                if not any(one in self._works for one in self._series_of[_subject(name)]):
                    self._works.pop(shared, None)
                self._log.event('done', **work.owner, n_cached=work.n_cached)
                again = (
                    f' ({work.n_cached} of {work.totals.total()} steps from before)' if work.n_cached else ''
                )
                self._say(f'{shorten(name, 60)} done{again}; {self._summary()}')

    def _say(self, text: str, style: str = ''):
        self._log.line(text)
        self._told.append((text, style))

    def _print(self):
        # without the lock, which the display takes while it holds the lock of the console
        for text, style in self._told:
            elapsed = time.monotonic() - self._begun
            line = Text(f'[{elapsed:6.0f} s] {printable(text)}', style=style)
            try:
                self._console.print(line, soft_wrap=not self._live)
            except OSError:  # log.txt has it; a new console drops the unprinted line
                self._console = _console()
        self._told.clear()

    def _summary(self):
        """Progress of the run in one line."""
        memory = used_memory_gb()
        left = self._pace.left(self._works, self._lost, self._waiting)
        failed = f', {len(self._lost)} failed' if self._lost else ''
        spent = duration(time.monotonic() - self._begun)
        parts = [
            f'{self._n_done} of {self._n_series} series done{failed} in {spent}',
            f'{memory:.1f} of {self._mem_gb:.1f} GB' if memory is not None else '',
            f'about {duration(left)} left' if left else '',
        ]
        return ', '.join(filter(None, parts))

    def _render(self):
        with self._lock:
            return screen(self._summary(), self._rows(), self._console)

    def _rows(self):
        """Series that have begun: (name, stage -> (done, total, failed), steps), running ones first."""
        now = time.monotonic()
        rows = []
        for name, work in self._works.items():
            if _is_anatomy(name):
                continue
            anatomy = self._works.get(f'{_subject(name)} anatomy', _Work({}))
            running = {**anatomy.running, **work.running}
            is_begun = work.n_done or anatomy.n_done
            if not running and (name in self._lost or not is_begun):
                continue
            left = Counter([*work.left.values(), *anatomy.left.values()])
            totals, failed = work.totals + anatomy.totals, work.failed | anatomy.failed
            stages = {s: (totals[s] - left[s], totals[s], s in failed) for s in COLUMNS}
            steps = [f'{step.rpartition(".")[2]} {now - since:.0f} s' for step, since in running.items()]
            rows.append((name, stages, steps))
        return sorted(rows, key=lambda row: not row[2])


class Pace:
    """Estimate the remaining time from the steps measured so far."""

    def __init__(self, nprocs: int):
        self._nprocs = nprocs
        self._seconds, self._counts, self._added = Counter(), Counter(), Counter()
        self._titles = {False: set(), True: set()}  # of series and of anatomies
        self._busy, self._since = 0.0, None

    def add(self, title: str, step: str):
        """Count a step that is to be run."""
        self._titles[_is_anatomy(title)].add(title)
        self._added[_is_anatomy(title), step] += 1

    def end(self, title: str, step: str, seconds: float):
        """Record the duration of a step."""
        if self._since is None:
            self._since = time.monotonic() - seconds
        self._busy += seconds
        self._seconds[_is_anatomy(title), step] += seconds
        self._counts[_is_anatomy(title), step] += 1

    def left(self, works: dict[str, _Work], lost: set[str], waiting: set[str]):
        """Seconds left; None until every kind of step that is left has been measured."""
        now = time.monotonic()
        work, longest = 0.0, 0.0
        for title, one in works.items():
            if title in lost or one.failed:
                continue
            steps = [(_is_anatomy(title), step) for step in one.left]
            if not all(self._counts[step] for step in steps):
                return None
            seconds = sum(map(self._mean, steps))
            for step, since in one.running.items():
                seconds -= min(now - since, self._mean((_is_anatomy(title), step)))
            work, longest = work + seconds, max(longest, seconds)
        for is_anatomy, titles in self._titles.items():
            n = len({_subject(title) for title in waiting}) if is_anatomy else len(waiting)
            if n and titles:
                steps = [key for key in self._added if key[0] == is_anatomy]
                if not all(self._counts[step] for step in steps):
                    return None
                work += n / len(titles) * sum(self._mean(step) * self._added[step] for step in steps)
        if self._since is None:
            return None
        at_once = min(max(self._busy / max(now - self._since, 1e-3), 1.0), self._nprocs)
        return max(work / at_once, longest)

    def _mean(self, step: tuple[bool, str]):
        return self._seconds[step] / self._counts[step]


def screen(summary: str, rows: list[tuple], console: Console):
    """The display, cut to the width and height of the terminal."""
    width, height = console.size
    blocks = '█░' if 'utf' in console.encoding.lower() else '#.'
    cell = 8 if width >= 76 else 4
    name_width = min(max((len(name) for name, _, _ in rows), default=0), max(width // 4, 12))
    lines = [Text(summary, style='bold')]
    if rows:
        lines.append(
            Text(' ' * name_width + ''.join(f' {column[: cell - 1]:<{cell - 1}}' for column in COLUMNS))
        )
    shown = rows if len(rows) <= height - 3 else rows[: max(height - 4, 0)]
    for name, stages, steps in shown:
        line = Text(f'{printable(shorten(name, name_width)):<{name_width}}')
        for done, total, has_failed in stages.values():
            filled = (cell - 1) * done // total if total else cell - 1
            colour = 'red' if has_failed else 'green' if done == total else 'cyan'
            line.append(' ').append(blocks[0] * filled, style=colour)
            line.append(blocks[1] * (cell - 1 - filled), style='red' if has_failed else 'dim')
        lines.append(line.append(f' {printable(", ".join(steps))}'))
    if len(shown) < len(rows):
        lines.append(Text(f'and {len(rows) - len(shown)} more begun', style='dim'))
    for line in lines:
        line.no_wrap = True
        line.truncate(width - 1, overflow='ellipsis' if blocks[0] == '█' else 'crop')
    return Group(*lines)


def shorten(text: str, width: int) -> str:
    """``text``, shortened in the middle to ``width`` signs.

    >>> shorten('sub-01_ses-baseline', 11)
    'sub-..eline'
    """
    if len(text) <= width:
        return text
    end = (width - 2 + 1) // 2
    return f'{text[: width - 2 - end]}..{text[len(text) - end :]}'


def duration(seconds: float) -> str:
    """``seconds`` in words.

    >>> duration(42), duration(600), duration(7500), duration(200000)
    ('42 s', '10 min', '2 h 05 min', '2 d 07 h')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f'{seconds:.0f} s'
    if minutes < 100:
        return f'{minutes} min'
    if minutes < 48 * 60:
        return f'{minutes // 60} h {minutes % 60:02} min'
    return f'{minutes // 1440} d {minutes % 1440 // 60:02} h'


def _console():
    # the log of a job stays free of control characters, also where FORCE_COLOR is set
    return Console(stderr=True, highlight=False, force_terminal=sys.stderr.isatty())


def _subject(title: str):
    return title.split()[0].partition('_')[0]


def _is_anatomy(title: str):
    return title.endswith(' anatomy')


def _common(prefixes: list[str]):
    """The longest common beginning of ``prefixes``, letter by letter."""
    return os.path.commonprefix(prefixes)  # noqa: RUF071


def _parents(name: str):
    """Prefixes of a full name, the longest first."""
    parts = name.split('.')
    return ('.'.join(parts[:n]) for n in range(len(parts), 0, -1))
