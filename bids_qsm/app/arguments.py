"""The arguments of the command line, and the settings that they and a configuration file make."""

import argparse
import re
from pathlib import Path

import bids_qsm
from bids_qsm.app.methods import STEPS, describe, registries
from bids_qsm.app.options import CHOICES, OF_LEVEL, Options, flag_of, read_toml
from bids_qsm.errors import UserError

DESCRIPTION = (
    'Susceptibility maps, R2* maps, susceptibility-weighted images and tables of regional susceptibility '
    'from gradient-echo MRI in BIDS.'
)


def parse(argv) -> dict:
    """Settings that the command line and the file of --config hold; the command line wins."""
    parser = build_parser()
    if {'-h', '--help'} & set(argv):  # only the help needs the registries, which import the numerics
        parser.epilog = 'Methods, and the parameters of each with their defaults:\n\n' + '\n\n'.join(
            describe(step, registry) for step, registry in registries().items()
        )
    given = vars(parser.parse_intermixed_args(argv))
    path = given.pop('config', None)
    settings = given
    if path is not None:
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'the configuration {path} cannot be read: {error}.') from None
        settings = {**read_toml(text, source=path), **given}
    _require_own(given, settings.get('level'))
    return settings


def _require_own(given, level):
    for other, names in OF_LEVEL.items():
        for name in names if level in OF_LEVEL and other != level else ():
            if given.get(name):
                raise UserError(f'{flag_of(name)} goes with the level {other}, not with {level}.')


def build_parser() -> argparse.ArgumentParser:
    """The parser; settings not given are absent, so that their defaults stand in Options alone."""
    parser = argparse.ArgumentParser(
        'bids_qsm',
        usage='bids_qsm bids_dir output_dir {participant,group} [options]\n'
        '       bids_qsm {demo,fetch,slurm,status} --help',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    default = {name: field.default for name, field in Options.__dataclass_fields__.items()}
    add = parser.add_argument
    add('bids_dir', nargs='?', help='root of the BIDS dataset')
    add('output_dir', nargs='?', help='output folder')
    add('level', nargs='?', metavar='{participant,group}', help='each participant, or all that were run')

    group = parser.add_argument_group('what to run')
    add = group.add_argument
    add('--participant-label', nargs='+', metavar='LABEL', help='participants to run, with or without "sub-"')
    add('--session-label', nargs='+', metavar='LABEL', help='sessions to run, with or without "ses-"')
    add(
        '--array-task',
        metavar='I/N',
        help='run share I of N of the participants (from a SLURM or SGE array 1-N, unless labels are given)',
    )
    add(
        '--bids-filter-file',
        metavar='FILE',
        help='JSON that maps "megre" and "t1w" to BIDS entities to select',
    )
    add(
        '--bids-database-dir',
        metavar='PATH',
        help="folder for pybids' index of the dataset, reused by later runs (for large datasets)",
    )
    add('--skip-bids-validation', action='store_true', help='do not run the BIDS validator')
    add(
        '-d',
        '--derivatives',
        nargs='+',
        action='extend',
        type=_named_path,
        metavar='NAME=PATH',
        help='earlier derivatives to use (fMRIPrep, sMRIPrep: brain mask and transforms; any: lesion masks)',
    )
    add('--config', metavar='FILE', help='TOML file of settings, as a run writes to logs/<run>/config.toml')
    add('--reports-only', action='store_true', help='only write the reports again')
    add('--boilerplate-only', action='store_true', help='only print the methods text')
    add(
        '--dry-run',
        action='store_true',
        help='only print what would be run, and why other series are skipped',
    )

    group = parser.add_argument_group('how to run it')
    add = group.add_argument
    add('-w', '--work-dir', metavar='PATH', help='working folder, from which a run resumes (output_dir/work)')
    add('--nprocs', type=int, metavar='N', help='CPUs in all (all there are, or those SLURM granted)')
    add('--omp-nthreads', type=int, metavar='N', help='CPUs of one step (found from nprocs)')
    add(
        '--mem',
        dest='mem_gb',
        type=_gigabytes,
        metavar='SIZE',
        help='memory: 8 or 8G, 8000M (90 %% of what there is, or what SLURM granted)',
    )
    add(
        '--device',
        choices=CHOICES['device'],
        help=f'where background removal and inversion compute ({default["device"]})',
    )
    add('--use-plugin', metavar='FILE', help='YAML or JSON file that chooses a Nipype plugin')
    add('--stop-on-first-crash', action='store_true', help='stop everything when a step fails')
    add('-v', '--verbose', action='count', help='say more; -vv also shows where errors come from')
    add('--version', action='version', version=f'bids_qsm {bids_qsm.__version__}')

    group = parser.add_argument_group('methods and spaces')
    add = group.add_argument
    for step in STEPS:
        more = ', or files such as /masks/{series}_mask.nii.gz' if step == 'mask' else ''
        add(f'--{step}', metavar='NAME[:param=value,...]', help=f'method, see below{more} ({default[step]})')
    add(
        '--output-spaces',
        nargs='+',
        metavar='SPACE',
        help=f'templates to bring the maps to ({" ".join(default["output_spaces"])})',
    )
    add('--atlas', metavar='NAME|FILE', help=f'regions: a name, or a dseg with its TSV ({default["atlas"]})')
    add(
        '--phase-scaling',
        metavar='auto|radians|degrees|LOW,HIGH',
        help='unit of phase, or the values of -pi and pi as in --phase-scaling=-4096,4094 (auto)',
    )
    for name, what in (
        ('phase_sign', 'sign of phase in a positive field'),
        ('slice_flip', 'whether every second slice is negated (GE)'),
        ('bipolar', 'whether echoes are read in turns of direction'),
    ):
        add(f'--{name.replace("_", "-")}', choices=CHOICES[name], help=f'{what} ({default[name]})')

    group = parser.add_argument_group('regions and lesions')
    add = group.add_argument
    add(
        '--chi-template',
        metavar='FILE',
        help='susceptibility in the space of the first template, to which the deep grey matter is aligned, '
        'such as that of --study-template (a prior made from the atlas)',
    )
    add('--candidates', action='store_true', help='also look for microbleeds and calcifications')

    group = parser.add_argument_group('group level')
    add = group.add_argument
    add('--model', metavar='FORMULA', help='model of each region, as "chi ~ group + age + sex"')
    add(
        '--correlate',
        nargs='+',
        metavar='COLUMN:REGION',
        help='columns of participants.tsv to correlate with regions, as dystonia:GP parkinsonism:SN; what '
        'stands on the right of --model is taken out',
    )
    add('--controls', metavar='LABEL', help='value of the column group that names controls (found)')
    add(
        '--statistic',
        choices=CHOICES['statistic'],
        help=f'column of the tables to test ({default["statistic"]})',
    )
    add(
        '--relative-to',
        metavar='REGION',
        help='take the mean of this region off susceptibility first, as CSF, Brain, "White matter"',
    )
    add(
        '--voxelwise',
        choices=CHOICES['voxelwise'],
        help=f'test the model in each voxel of the template, with this threshold ({default["voxelwise"]})',
    )
    add(
        '--smoothing',
        dest='smoothing_mm',
        type=float,
        metavar='MM',
        help=f'full width at half maximum within tissue for --voxelwise ({default["smoothing_mm"]:g})',
    )
    add(
        '--study-template',
        type=int,
        metavar='N',
        help='average the cohort to a template of its own, in N rounds (0: none)',
    )
    return parser


def _named_path(text):
    name, equals, path = text.partition('=')
    return (name, path) if equals else (re.sub(r'\W', '_', Path(text).resolve().name), text)


def _gigabytes(text):
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?', text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write 8, 8G or 8000M')
    return float(match[1]) * {'K': 1e-6, 'M': 1e-3, 'G': 1, '': 1, 'T': 1e3}[match[2].upper()]
