"""Write boutiques.json, the descriptor of the BIDS App, from the parser: python release/descriptor.py."""

import json
from argparse import Action
from pathlib import Path

import bids_qsm
from bids_qsm.app.arguments import DESCRIPTION, build_parser

DESCRIPTOR = Path(__file__).parents[1] / 'boutiques.json'
PLACES = ('bids_dir', 'output_dir', 'level')
"""Positional arguments; in a descriptor they are required, as is the level."""
FILES = ('FILE', 'PATH', 'DIR')
"""Placeholders of values that are a file or a folder."""
NUMBERS = (int, float)
APPLICATIONS = (
    'Applications with parameters of theirs, NAME:parameter=value, as oximetry:hematocrit=.40; without '
    'parameters their flags do'
)
"""Flags that end in parameters, as --oximetry:hematocrit=.40, are nothing that a descriptor can say."""


def descriptor() -> dict:
    """Descriptor of boutiques (schema 0.5): inputs of the participant and the group level, and outputs."""
    inputs = [_input(action) for action in build_parser()._actions if _is_input(action)]
    return {
        'name': 'bids_qsm',
        'description': DESCRIPTION,
        'tool-version': bids_qsm.__version__,
        'schema-version': '0.5',
        'author': 'bids_qsm developers',
        'command-line': ' '.join(['bids_qsm', *(one['value-key'] for one in inputs)]),
        'container-image': {
            'type': 'docker',
            'image': f'bids_qsm:{bids_qsm.__version__}',
            'container-opts': ['--rm'],
            'entrypoint': False,
        },
        'inputs': inputs,
        'output-files': [
            {
                'id': 'output',
                'name': 'Output folder',
                'description': 'Maps, tables and reports as a BIDS derivative dataset',
                'path-template': '[OUTPUT_DIR]',
                'optional': True,  # --dry-run and --boilerplate-only write nothing
            }
        ],
        'error-codes': [
            {'code': 1, 'description': 'A participant or a series failed.'},
            {'code': 2, 'description': 'The input or an option cannot be used at all.'},
            {'code': 130, 'description': 'Interrupted; the same command resumes the run.'},
        ],
        'tags': {'domain': ['neuroinformatics', 'mri', 'qsm', 'bids-app']},
    }


def _is_input(action: Action) -> bool:
    return not {'-h', '--version'} & set(action.option_strings)


def _input(action: Action) -> dict:
    """An argument of the command line as an input of boutiques."""
    flag = max(action.option_strings, key=len, default='')
    name = flag.removeprefix('--') or action.dest
    identity = name.replace('-', '_')
    choices = action.choices or (('participant', 'group') if action.dest == 'level' else None)
    is_flag = action.nargs == 0
    one = {
        'id': identity,
        'name': name.replace('_', ' '),
        'description': APPLICATIONS if name == 'applications' else action.help or name,
        'type': 'Flag' if is_flag else _type(action),
        'value-key': f'[{identity.upper()}]',
        'optional': action.dest not in PLACES,
    }
    if flag:
        one['command-line-flag'] = flag
    if choices:
        one['value-choices'] = list(choices)
    if action.nargs == '+':
        one['list'] = True
    if one['type'] == 'Number' and action.type is int:
        one['integer'] = True
    return one


def _type(action: Action) -> str:
    if action.type in NUMBERS:
        return 'Number'
    if action.dest == 'bids_dir' or (action.metavar in FILES and action.nargs is None):
        return 'File'
    return 'String'  # an output folder need not exist, and NAME=PATH is no path


def text() -> str:
    """The descriptor as it is written."""
    return json.dumps(descriptor(), indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    DESCRIPTOR.write_text(text())
