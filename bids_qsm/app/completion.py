"""The script that lets a shell complete commands and options."""

import argparse
import re
from collections.abc import Mapping

import shtab

from bids_qsm.app.arguments import DESCRIPTION, Parser, add_settings
from bids_qsm.app.methods import registries
from bids_qsm.app.options import SETTINGS

WITH_SETTINGS = {'check': ('output_dir', 'level'), 'slurm': ('level',)}
"""Commands that take the settings of a run too, and those that they leave out."""
IN_ZSH = """
_bids_qsm() {
  local -a options=(': :_bids_qsm_first' "${_shtab_bids_qsm_options[@]}")
  if (( CURRENT > 2 )) && [[ "${words[2]}" == (%s) ]]; then
    shift words
    (( CURRENT -= 1 ))
    curcontext="${curcontext%%:*:*}:bids_qsm-${words[1]}:"
    local name="_shtab_bids_qsm_${words[1]}_options"
    options=("${(@P)name}")
  fi
  _arguments -s $options
}

_bids_qsm_first() {
  _alternative 'commands:: _shtab_bids_qsm_commands' 'datasets:dataset:_files -/'
}

# as a file of fpath it is the function itself, else it is read once
if [[ "${zsh_eval_context[-1]}" == loadautofunc ]]; then
  _bids_qsm "$@"
elif (( ! ${+functions[compdef]} )); then
  print -u2 'bids_qsm: completion starts with "autoload -Uz compinit; compinit"; put that before this script.'
else
  compdef _bids_qsm bids_qsm
fi"""
"""The end of the script for zsh: shtab's own gives the words of a run to the commands alone."""


def script(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script for bash, zsh or fish; ``commands`` are the parsers of the other commands by name.

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
    text = shtab.complete(parser, shell)
    if shell == 'zsh':
        return text[: text.index('\n_shtab_bids_qsm() {')] + IN_ZSH % '|'.join(commands)
    return text


def _complete(action: argparse.Action, known: Mapping[str, dict]):
    """Say what the shell may put for an argument: methods, words, files or folders."""
    setting = SETTINGS.get(action.dest)
    if action.dest in known:
        action.choices = list(known[action.dest])
    elif setting is not None and setting.metadata['about'].choices:
        action.choices = setting.metadata['about'].choices
    elif action.metavar in ('FILE', 'OUT', 'DIR', 'PATH', 'NAME=PATH') or action.dest.endswith('_dir'):
        action.complete = shtab.FILE if action.metavar == 'FILE' else shtab.DIRECTORY
    if isinstance(action.metavar, str):  # shtab hands ":" and "[" on to zsh, where they end what is shown
        action.metavar = re.split(r'[:[]', action.metavar)[0]
