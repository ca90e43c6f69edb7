"""The events of a run's log: what each holds, so that what is damaged is told from what is sound."""

import json
import re
from collections.abc import Callable, Mapping

NUMBER = (int, float)
MOST = 1e11
"""Beyond any number of an event; a time (s since 1970) is of the year 5138 then."""
LONGEST = 240
"""Characters, at most, of the name of a series, of which files are named."""


def _is_title(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST


def _are_titles(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_title, value))


def _is_task(value: object) -> bool:
    found = isinstance(value, str) and re.fullmatch('([0-9]{1,6})/([0-9]{1,6})', value)
    return bool(found) and 1 <= int(found[1]) <= int(found[2])


OWNER = {'series': _is_title, 'subject': _is_title}
FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...] | Callable]] = {
    'run': {
        **dict.fromkeys(('version', 'command', 'host', 'place'), str),
        **dict.fromkeys(('pid', 'born'), int),
        **dict.fromkeys(('sessions', 'participants'), _are_titles),
        'task': _is_task,
    },
    'plan': {'series': _are_titles, 'mem_gb': NUMBER, 'nprocs': int},
    'alive': {'memory_gb': NUMBER},
    'add': {**OWNER, 'n_steps': int},
    'start': {**OWNER, 'step': str},
    'end': {
        **OWNER,
        'step': str,
        'n_done': int,
        **dict.fromkeys(('seconds', 'cpu_seconds', 'peak_gb'), NUMBER),
    },
    'failed': {**OWNER, 'step': str, 'reason': str, 'node': str},
    'done': {**OWNER, 'n_cached': int},
    'close': {'status': int, 'reason': str},
}
"""Event -> field -> its type, or what tells whether a value is one. Numbers are from 0 to `MOST`."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    'run': ('host', 'pid'),
    'plan': ('series',),
    'start': ('step',),
    'end': ('step',),
    'failed': ('step',),
    'close': ('status',),
}
"""Fields without which an event says nothing, beside the time."""
OF_WORK = frozenset(kind for kind, fields in FIELDS.items() if 'subject' in fields)
"""Events of a series, or of a participant's anatomy."""
KEPT = frozenset(
    ('id', 'is_partial', 'started', 'seen', 'ended', 'state', 'steps', 'running', 'failures', 'subjects')
)
"""What is known of a run or a series from several events; no event says it itself."""

_DECODE = json.JSONDecoder().raw_decode


def read_event(line: str) -> tuple[str, float, dict, bool]:
    """Kind, time and sound fields of a line, and whether all of it is sound; ValueError where nothing is.

    Events and fields that are not known, as of another version, are sound; these fields are left out.

    >>> read_event('{"time": 1.5, "event": "add", "series": "sub-1", "n_steps": "six"}')
    ('add', 1.5, {'series': 'sub-1'}, False)
    """
    text = line.lstrip('\0')  # where a computer lost its power
    try:
        event, end = _DECODE(text)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
    if not isinstance(event, dict) or text[end:].strip():
        raise ValueError('it is no event')
    kind, moment = event.pop('event', None), event.pop('time', None)
    if not isinstance(kind, str) or not isinstance(moment, NUMBER) or not 0 <= moment < MOST:
        raise ValueError('it has no event or no time')
    fields = FIELDS.get(kind)
    if fields is None:
        return kind, moment, {}, True
    found, is_sound = {}, len(text) == len(line)
    for name, value in event.items():  # in line, as there may be a million of them
        wanted = fields.get(name)
        if wanted is str:
            is_one = isinstance(value, str)
        elif wanted is int or wanted is NUMBER:
            is_one = isinstance(value, wanted) and 0 <= value < MOST
        elif wanted is None:
            if name in KEPT:
                raise ValueError('it is of another program')
            continue
        else:
            is_one = wanted(value)
        if is_one:
            found[name] = value
        else:
            is_sound = False
    for name in NEEDED.get(kind, ()):
        if name not in found:
            raise ValueError('it lacks what it should say')
    if kind in OF_WORK and 'series' not in found and 'subject' not in found:
        raise ValueError('it is of no series')
    return kind, moment, found, is_sound
