"""Advice on mistakes at the command line that its parsers would not find, or not explain."""

import shlex
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path

from bids_qsm.app.options import SETTINGS, flag_of
from bids_qsm.errors import UserError, nearest

INSTEAD = {
    word: f' Did you mean bids_qsm {instead}?'
    for word, instead in (('help', '--help'), ('version', '--version'), ('watch', 'status OUT --watch'))
}
"""What may be meant by words that are no commands and resemble none."""

LEVELS = SETTINGS['level'].metadata['about'].choices


def is_command(argv: list[str], commands: Collection[str]) -> bool:
    """Whether the first word is one of ``commands`` and no dataset; UserError where a level follows it."""
    name, *others = argv
    if name not in commands or ({*LEVELS} & {*others} and Path(name).is_dir()):
        return False
    words = list(takewhile(lambda word: not word.startswith('-'), others))
    # a level may end the folders, or the line, but there it may be a value of the option before it
    ends = [*words[1:][-1:], *([others[-1]] if len(others) > 1 and not others[-2].startswith('-') else [])]
    for word in ends:
        if word in LEVELS and not Path(word).exists():
            raise no_level(name, word)
    return True


def no_level(command: str, word: str) -> UserError:
    """The error of a level after a command."""
    return UserError(
        f'bids_qsm {command} takes no level; leave {word!r} out. bids_qsm {command} --help tells more.'
    )


def _require_first(settings: dict):
    """Raise UserError where an option that takes several words took the folders or the level too."""
    for name, values in settings.items():
        if not isinstance(values, list):
            continue
        words = [str(value if isinstance(value, str) else value[-1]) for value in values]
        at = next((n for n, word in enumerate(words) if word in LEVELS), None)
        if at is None and ('output_dir' in settings or not any('/' in word for word in words[1:])):
            continue
        level = 'participant' if at is None else words[at]
        raise UserError(
            f'{flag_of(name)} takes all words that follow it; put the folders and the level before the '
            f'options: bids_qsm bids_dir output_dir {level} {flag_of(name)} {words[0]}.'
        )


def require_level(settings: dict, commands: Collection[str]):
    """Raise UserError where there is a dataset but no level, as for a slip in the name of a command."""
    if 'level' not in settings:
        _require_first(settings)
    given = settings.get('bids_dir')
    if given is None:
        return
    if 'level' in settings:
        if 'output_dir' in settings:
            _require_order([str(settings[name]) for name in ('bids_dir', 'output_dir', 'level')])
        return
    out = str(settings.get('output_dir'))
    if out in LEVELS and not Path(out).exists():
        raise UserError(f'the output folder is missing; give: bids_qsm {shlex.quote(str(given))} OUT {out}.')
    slip = INSTEAD.get(str(given)) or nearest(str(given), commands)
    if not Path(given).is_dir():
        known = f' The commands are: {", ".join(commands)}.'
        raise UserError(f'there is no folder and no command {given!r}.{slip or known}')
    if 'output_dir' not in settings:
        raise UserError(
            f'what is to be done with {given}? Give: bids_qsm check {given}, or bids_qsm {given} OUT '
            'participant.'
        )


def _require_order(words: list[str]):
    """Raise UserError where dataset, output folder and level stand in another order, or the level is none."""
    if words[2] not in LEVELS:
        at = next((word for word in words if word in LEVELS and not Path(word).exists()), None)
        if at is None:
            near = nearest(words[2], LEVELS)
            raise UserError(f'the level is {words[2]!r}; it must be {" or ".join(LEVELS)}.{near}')
        words.remove(at)
        words.append(at)
        raise UserError(f'the level comes last: bids_qsm {shlex.join(words)}.')
    data, out = map(Path, words[:2])
    if said := _exchanged(data, out):
        right = shlex.join([words[1], words[0], words[2]])
        raise UserError(f'{said}, which comes first: bids_qsm {right}.')


def _exchanged(data: Path, out: Path) -> str:
    """What the two folders are, where dataset and output stand in each other's place; else ''."""
    try:
        is_empty = not data.exists() or (data.is_dir() and not any(data.iterdir()))
        is_ours = (data / 'logs').is_dir() and (data / 'dataset_description.json').is_file()
        if not (is_empty or is_ours) or not (out / 'dataset_description.json').is_file():
            return ''
    except OSError:
        return ''
    from bids_qsm.layout.dataset import is_raw

    if not is_raw(out) or is_raw(data):
        return ''
    return (
        f'{data} is an output, but {out} is a dataset' if is_ours else f'{data} is no dataset, but {out} is'
    )
