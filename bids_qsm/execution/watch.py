"""A view of a run from any terminal: it reads the logs alone, so that it can be left and entered again."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bids_qsm.execution.progress import duration, shorten
from bids_qsm.reports.html import LEVELS, read_findings

EVERY = 5.0
"""Seconds between updates."""
LISTED = 4
"""Failures, and warnings, at most that are shown."""
BEGUN = 0.2
"""Part of its steps that a series has done before its time says anything of its rest."""
BAR, SHORT, WIDE = 20, 8, 80
"""Lengths of a bar, from a width of the terminal on and below it."""


def watch(out: str | Path, state: dict, read: Callable[[], dict]) -> dict:
    """Show ``state``, and again what ``read`` gives, until all runs have ended or q or Ctrl-C is pressed.

    On a terminal it fills the screen; elsewhere a line goes to stderr where something has changed. Returns
    the last state.
    """
    # whatever FORCE_COLOR says: a file takes no screen
    console, pause, said = Console(highlight=False, force_terminal=sys.stdout.isatty()), EVERY, ''
    display = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else None
    with suppress(KeyboardInterrupt), _Terminal(display) as terminal:
        while any(run['state'] == 'running' for run in state['runs']):
            if display:
                terminal.show(Group(*_lines(Path(out), state, console)))
            elif (line := summary(state)) != said:
                said = line
                print(f'{time.strftime("%H:%M:%S")} {line}', file=sys.stderr, flush=True)
            if terminal.left(pause):
                break
            began = time.monotonic()
            state = read()
            # thousands of series take seconds to read
            pause = max(EVERY, 10 * (time.monotonic() - began))
    return state


class _Terminal:
    """The screen and the keys, taken while this process is in front, and given back whenever it is not.

    That is at the end, before Ctrl-Z stops it, and where the terminal is closed, which ends the view.
    """

    def __init__(self, display: Live | None):
        self._display, self._screen = display, sys.stdout.fileno() if display else -1
        self._keyboard = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else -1
        self._modes: list | None = None  # of the keyboard before it was taken
        self._handlers: dict = {}

    def __enter__(self) -> '_Terminal':
        own = {
            signal.SIGTSTP: self._stop,
            signal.SIGCONT: lambda *_: self._take(),
            signal.SIGHUP: signal.default_int_handler,
        }
        for number, handler in own.items():
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
                self._handlers[number] = signal.signal(number, handler)
        with _undisturbed():
            self._take()
        return self

    def __exit__(self, *_: object):
        with _undisturbed():
            self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def show(self, content: Group):
        """Draw the screen; nothing while others are in front."""
        with _undisturbed():
            self._take()
            if self._display and self._display.is_started and _is_ours(self._screen):
                self._display.update(content, refresh=True)

    def left(self, seconds: float) -> bool:
        """Wait so many seconds; tell whether q was pressed, where there is a keyboard."""
        rest, end = seconds, time.monotonic() + seconds
        while rest > 0:
            if self._modes is None:
                time.sleep(rest)
                break
            if select.select([self._keyboard], [], [], rest)[0]:
                if not _is_ours(self._keyboard):  # the key is for who is in front
                    self._modes = None
                else:
                    try:
                        keys = os.read(self._keyboard, 64)
                    except OSError:
                        return True
                    if not keys or b'q' in keys.lower():  # none where the terminal is gone
                        return True
            rest = end - time.monotonic()
        return False

    def _take(self):
        if self._display and _is_ours(self._screen):
            if self._display.is_started:
                self._display.refresh()
            else:
                self._display.start(refresh=True)
        if _is_ours(self._keyboard):
            if self._modes is None:
                self._modes = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSANOW)  # by default keys that were pressed are dropped

    def _give_back(self):
        modes, self._modes = self._modes, None
        with suppress(termios.error):  # it is gone
            if modes and _is_ours(self._keyboard):
                termios.tcsetattr(self._keyboard, termios.TCSADRAIN, modes)
        with suppress(OSError):
            if self._display:
                self._display.stop()

    def _stop(self, *_: object):
        """Stop as Ctrl-Z does; SIGCONT takes the terminal again."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stop)


def _is_ours(terminal: int) -> bool:
    """Whether a file is a terminal that this process may use: who uses its own from behind is stopped."""
    try:
        return os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # one of others, where nobody is stopped
        return True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-Z and the like wait until what is drawn is whole."""
    waiting = {signal.SIGTSTP, signal.SIGCONT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting)


def summary(state: dict) -> str:
    """Counts of series, and times, in one line."""
    return ', '.join(filter(None, (_counts(state), _times(state))))


def _counts(state: dict) -> str:
    counts, n = state['counts'], len(state['series'])
    named = {'failed': 'failed', 'stopped': 'stopped', 'running': 'running', 'waiting': 'not started'}
    parts = [f'{counts["done"]} of {n} series done']
    parts += [f'{counts[name]} {words}' for name, words in named.items() if counts[name]]
    return ', '.join(parts)


def _times(state: dict) -> str:
    """The time that the live runs have taken, and that they are estimated to take still."""
    live = [run['started'] for run in state['runs'] if run['state'] == 'running']
    parts = [f'running for {duration(time.time() - min(live))}'] if live else []
    rest = seconds_left(state, time.time())
    return ', '.join(parts + ([f'about {duration(rest)} left'] if rest is not None else []))


def seconds_left(state: dict, now: float) -> float | None:
    """Time (s) that the live runs still take, by series that are done or well begun; None before.

    A series that has not begun takes as long as the others did on average, as many at a time as run now.
    """
    live = {run['id'] for run in state['runs'] if run['state'] == 'running'}
    own = [(name, one) for name, one in state['series'].items() if one.get('run') in live]
    # those of an earlier run are done at once
    ended = (one for _, one in own if 'ended' in one and 2 * one.get('n_cached', 0) < one.get('n_steps', 1))
    whole, rest = [one['ended'] - one['started'] for one in ended], []
    running = [(name, one) for name, one in own if one['state'] == 'running' and 'started' in one]
    shares = {}
    for name, one in running:
        done, total = _steps(name, one, state)
        shares[name] = done / total if total else 0.0
        if shares[name] > BEGUN:
            whole.append((now - one['started']) / shares[name])
    if not whole:
        return None
    mean = sum(whole) / len(whole)
    for name, one in running:
        spent = now - one['started']
        rest.append(spent / shares[name] - spent if shares[name] > BEGUN else max(mean - spent, 0.0))
    waiting = sum(one['state'] == 'waiting' for _, one in own)
    if not running and not waiting:
        return None
    return max((sum(rest) + waiting * mean) / max(1, len(running)), max(rest, default=0.0))


def _steps(name: str, one: dict, state: dict) -> tuple[int, int]:
    """Steps of a series, and of the anatomy that it waits for, that are done and that there are."""
    anatomy = state['subjects'].get(name.partition('_')[0], {})
    return tuple(one.get(key, 0) + anatomy.get(key, 0) for key in ('n_done', 'n_steps'))


def _lines(out: Path, state: dict, console: Console) -> list[Text]:
    """The screen, cut to the height and width of the terminal."""
    width, height = console.size
    full, empty = ('█', '░') if 'utf' in console.encoding.lower() else ('#', '.')
    whole = BAR if width >= WIDE else SHORT
    longest = max(
        (len(name) for name, one in state['series'].items() if one['state'] == 'running'), default=0
    )
    named = min(longest, 24 if width >= WIDE else 16)

    def bar(done: int, total: int) -> tuple[str, str]:
        filled = whole * done // total if total else 0
        return full * filled, empty * (whole - filled)

    done, n = state['counts']['done'], len(state['series'])
    lines = [Text(f'{out}', style='bold'), Text.assemble((bar(done, n)[0], 'green'), bar(done, n)[1])]
    lines[1].append(f' {_counts(state)}')
    lines += [Text(_times(state)), Text()]
    rows, now = [], time.time()
    for name, one in state['series'].items():
        if one['state'] != 'running':
            continue
        begun, total = _steps(name, one, state)
        anatomy = state['subjects'].get(name.partition('_')[0], {})
        steps = {**anatomy.get('running', {}), **one.get('running', {})}
        at = ', '.join(f'{step.rpartition(".")[2]} {duration(now - since)}' for step, since in steps.items())
        filled, left = bar(begun, total)
        said = f' {begun} of {total} steps  {at}'
        rows.append(Text.assemble(f'{shorten(name, named):<{named + 1}}', (filled, 'cyan'), left, said))
    failed = [
        Text(f'{name}: {failure.get("step")}: {failure.get("reason")}', style='red')
        for name, one in state['series'].items()
        if one['state'] == 'failed'
        for failure in one.get('failures', ())[:1]
    ]
    warnings = [Text(text, style='yellow') for text in _warnings(out, state)]
    more = [*_block('Failed', failed[-LISTED:], len(failed)), *_block('Last warnings', warnings, 0)]
    runs = sum(run['state'] == 'running' for run in state['runs'])
    foot = [Text(), Text(f'{runs} {"run" if runs == 1 else "runs"}; q leaves, the work goes on', style='dim')]
    room = max(height - len(lines) - len(more) - len(foot) - 1, 1)
    hidden = len(rows) - room
    lines += rows if hidden <= 0 else [*rows[: room - 1], Text(f'and {hidden + 1} more run', style='dim')]
    lines += [*more, *foot]
    for line in lines:
        # of the same length, so that colours stay where they are
        line.plain = ''.join(sign if sign.isprintable() else '?' for sign in line.plain)
        line.no_wrap = True
        line.truncate(width - 1, overflow='ellipsis')
    return lines[: height - 1]


def _block(title: str, lines: list[Text], count: int) -> list[Text]:
    more = f' ({count}, the last {len(lines)})' if count > len(lines) else ''
    return [Text(), Text(f'{title}{more}', style='bold'), *lines] if lines else []


def _warnings(out: Path, state: dict) -> list[str]:
    """Findings that need attention, of the series that were done last."""
    done = [(one.get('ended', 0), name) for name, one in state['series'].items() if one['state'] == 'done']
    found = []
    for _, name in sorted(done, reverse=True)[:LISTED]:
        for series in read_findings(out / name.partition('_')[0] / 'figures', []):
            if series['series'] == name:
                found += [
                    f'{name}, {one["what"]}: {one["found"]}'
                    for one in series['findings']
                    if one['level'] in LEVELS
                ]
    return found[:LISTED]
