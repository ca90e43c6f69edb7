"""The arguments of the command line, and the settings that they and a configuration file make."""

import argparse
import re
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field
from pathlib import Path
from typing import NoReturn

import bids_qsm
from bids_qsm.app.methods import describe, registries
from bids_qsm.app.options import METHODS, NAMED_PATHS, SETTINGS, TEXTS, flag_of, kind_of, read_toml
from bids_qsm.applications import about, modules
from bids_qsm.errors import UserError, nearest

DESCRIPTION = (
    'Susceptibility maps, R2* maps, susceptibility-weighted images and tables of regional susceptibility '
    'from gradient-echo MRI in BIDS.'
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the option or the value that may have been meant."""

    def error(self, message: str) -> NoReturn:
        meant = ''
        if unknown := re.search('unrecognized arguments: (.*)', message):
            words = [word.partition('=')[0] for word in unknown[1].split() if word.startswith('-')]
            meant = ''.join(nearest(word, self._option_string_actions) for word in words)
            if any(not a.option_strings and flag_of(a.dest) in words for a in self._actions):
                usage = self.format_usage().splitlines()[0].removeprefix('usage: ')
                meant = f' Give it without a flag: {usage}.'
        elif choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            meant = nearest(choice[1], re.findall(r"[^', ]+", choice[2]))
        if 'are required' in message:
            super().error(message)
        more = meant or f' {self.prog} --help tells more.'
        self.exit(2, f'{self.prog}: error: {message.removesuffix(".")}.{more}\n')


def parse(argv: list[str], not_from_file: Collection[str] = ()) -> dict:
    """Settings of the command line and of the file of --config; the command line wins.

    Settings ``not_from_file`` are left out of the file.
    """
    parser = build_parser()
    if {'-h', '--help'} & set(argv):  # only the help needs the registries, which import the numerics
        parser.epilog = 'Methods, and the parameters of each with their defaults:\n\n' + '\n\n'.join(
            describe(step, registry) for step, registry in registries().items()
        )
    # argparse knows no flag that ends in parameters, as --NAME:param=value
    known = {f'--{name}' for name in modules()}
    words = [f'--applications={a[2:]}' if ':' in a and a.partition(':')[0] in known else a for a in argv]
    given = vars(parser.parse_intermixed_args(words))
    path = given.pop('config', None)
    settings = given
    if path is not None:
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise UserError(f'the configuration {path} cannot be read: {reason}.') from None
        of_file = read_toml(text, source=path)
        settings = {name: value for name, value in of_file.items() if name not in not_from_file} | given
    _require_own(given, settings.get('level'))
    return settings


def _require_own(given: dict, level: str | None):
    """Raise UserError where the command line has an option of the other level."""
    for name, value in given.items():
        other = SETTINGS[name].metadata['about'].level
        if level in ('participant', 'group') and other not in ('', level) and value:
            flag = f'--{value[0]}' if name == 'applications' else flag_of(name)
            raise UserError(f'{flag} goes with the level {other}, not with {level}.')


def build_parser() -> argparse.ArgumentParser:
    """The parser; settings not given are absent, so that their defaults stand in Options alone."""
    parser = Parser(
        'bids_qsm',
        usage='bids_qsm bids_dir output_dir {participant,group} [options]\n'
        '       bids_qsm {check,completion,demo,export,fetch,import,plugin,slurm,status} --help',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_settings(parser)
    return parser


def add_settings(parser: argparse.ArgumentParser, *, without: Collection[str] = ()):
    """Give a parser the arguments of all settings but some, and --config and --version."""
    groups = {'': parser}
    for f in SETTINGS.values():
        if f.name in without:
            continue
        title = f.metadata['about'].group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title].add_argument, f)
    groups['what to run'].add_argument(
        '--config', metavar='FILE', help='TOML file of settings, as a run writes to logs/<run>/config.toml'
    )
    groups['how to run it'].add_argument(
        '--version', action='version', version=f'bids_qsm {bids_qsm.__version__}'
    )


def _add(add: Callable, f: Field):
    """Add the flag of an option, its positional argument, or the flags of all applications."""
    setting, kind = f.metadata['about'], kind_of(f)
    if kind == METHODS:
        add('--applications', action='extend', nargs='+', help=argparse.SUPPRESS)
        for name in modules():
            add(f'--{name}', dest=f.name, action='append_const', const=name, help=about(name))
    elif f.default is MISSING:
        metavar = f'{{{",".join(setting.choices)}}}' if setting.choices else None
        add(f.name, nargs='?', metavar=metavar, help=setting.help)
    elif setting.help:
        shown = ' '.join(f.default) if kind == TEXTS else str(f.default).removesuffix('.0')
        keywords = {
            'action': setting.action or ('store_true' if kind is bool else None),
            'type': setting.parse or (kind if kind in (int, float) and not setting.action else None),
            'nargs': '+' if kind in (TEXTS, NAMED_PATHS) else None,
            'choices': setting.choices,
            'metavar': setting.metavar,
        }
        add(
            *filter(None, (setting.short, flag_of(f.name))),
            dest=f.name,
            help=f'{setting.help} ({shown})' if f.default else setting.help,
            **{key: value for key, value in keywords.items() if value},
        )
