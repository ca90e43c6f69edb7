"""The script that lets a shell complete commands and options."""

import argparse
from collections.abc import Mapping

import shtab

from bids_qsm.app.arguments import DESCRIPTION, Parser, add_settings
from bids_qsm.app.methods import registries
from bids_qsm.app.options import SETTINGS

WITH_SETTINGS = {'check': ('output_dir', 'level'), 'slurm': ('level',)}
"""Commands that take the settings of a run too, and those that they leave out."""


def script(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script for bash or fish; ``commands`` are the parsers of the other commands by name.

    Made by shtab, so that a completion starts no Python.
    """
    parser = Parser('bids_qsm', description=DESCRIPTION, argument_default=argparse.SUPPRESS)
    # in the place of the dataset, whose name the shell itself completes
    others = parser.add_subparsers(metavar='bids_dir', help='root of the BIDS dataset, or a command')
    others.nargs = None  # shtab would take all that follows for words of a command
    for name, own in commands.items():
        if name in WITH_SETTINGS:
            add_settings(own, without=WITH_SETTINGS[name])
        others.add_parser(name, parents=[own], add_help=False, help=own.description)
    add_settings(parser, without=('bids_dir',))
    known = registries()
    for each in (parser, *commands.values()):
        for action in each._actions:
            _complete(action, known)
    return shtab.complete(parser, shell)


def _complete(action: argparse.Action, known: Mapping[str, dict]):
    """Say what the shell may put for an argument: methods, words, files or folders."""
    setting = SETTINGS.get(action.dest)
    if action.dest in known:
        action.choices = list(known[action.dest])
    elif setting is not None and setting.metadata['about'].choices:
        action.choices = setting.metadata['about'].choices
    elif action.metavar in ('FILE', 'OUT', 'DIR', 'PATH', 'NAME=PATH') or action.dest.endswith('_dir'):
        action.complete = shtab.FILE if action.metavar == 'FILE' else shtab.DIRECTORY
