"""The command line: what the user types becomes Options, then a run."""

import argparse
import re
import shutil
import sys
import traceback
from pathlib import Path

import bids_qsm
from bids_qsm.errors import UserError
from bids_qsm.methods import STEPS, describe, registries
from bids_qsm.options import CHOICES, Options, available_cpus, flag_of, read_toml
from bids_qsm.threads import set_threads

OF_LEVEL = {
    'participant': ('dry_run', 'boilerplate_only', 'reports_only', 'candidates', 'chi_template'),
    'group': (
        'model',
        'correlate',
        'controls',
        'relative_to',
        'statistic',
        'voxelwise',
        'smoothing_mm',
        'study_template',
    ),
}
"""Settings that mean nothing at the other level; a configuration file may hold those of both."""
DESCRIPTION = (
    'Susceptibility maps, R2* maps, susceptibility-weighted images and tables of regional susceptibility '
    'from gradient-echo MRI in BIDS.'
)


def main(argv=None) -> int:
    """Run the command line; return 0 when all is done, 1 if a subject failed, 2 for wrong use or input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    verbose = sum(len(a) - 1 for a in argv if re.fullmatch('-v+', a)) + argv.count('--verbose')
    try:
        if argv and argv[0] in COMMANDS and not {'participant', 'group'} & set(argv):
            return COMMANDS[argv[0]](argv[1:])
        return _run(argv)
    except UserError as error:
        _report(str(error), verbose)
        return 2
    except KeyboardInterrupt:
        print('bids_qsm: interrupted; the same command resumes the run.', file=sys.stderr)
        return 130
    except Exception as error:
        _report(f'unexpected {type(error).__name__}: {error} (-vv shows where)', verbose)
        return 1


def _report(message, verbose):
    if verbose >= 2:
        traceback.print_exc()
    print(f'bids_qsm: error: {message}', file=sys.stderr)


def _run(argv):
    settings = parse(argv)
    set_threads(_threads(settings))
    options = Options.from_settings(settings)
    if options.level == 'group':
        from bids_qsm.group import run_group

        return run_group(options)
    from bids_qsm.layout import find_series

    plan = find_series(options)
    if options.dry_run:
        print(describe_plan(plan))
        return _status_of(plan)
    if not plan.series:
        reasons = ' '.join(f'{one.name}: {one.reason}' for one in plan.rejected[:3])
        raise UserError(f'{options.bids_dir} has no series that can be run. {reasons}')
    if options.boilerplate_only:
        from bids_qsm.run import boilerplate

        print(boilerplate(options, plan))
        return 0
    from bids_qsm.run import run_participant

    skipped = [f'{one.name} is skipped: {one.reason}' for one in plan.rejected if not one.is_error]
    for note in (*plan.notes, *skipped):
        print(f'bids_qsm: {note}', file=sys.stderr)
    return max(run_participant(options, plan), _status_of(plan))


def _require_own(given, level):
    for other, names in OF_LEVEL.items():
        for name in names if level in OF_LEVEL and other != level else ():
            if given.get(name):
                raise UserError(f'{flag_of(name)} goes with the level {other}, not with {level}.')


def _status_of(plan):
    return int(any(one.is_error for one in plan.rejected))


def _threads(settings):
    """Threads of a step, before Options exist, as checking these already imports the numerics."""
    threads, cpus = settings.get('omp_nthreads'), settings.get('nprocs')
    if _is_count(threads):
        return threads
    return min(cpus if _is_count(cpus) else available_cpus(), 4)


def _is_count(n):
    return isinstance(n, int) and n > 0


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


def build_parser() -> argparse.ArgumentParser:
    """The parser; settings not given are absent, so that their defaults stand in Options alone."""
    parser = argparse.ArgumentParser(
        'bids_qsm',
        usage='bids_qsm bids_dir output_dir {participant,group} [options]\n       bids_qsm demo OUT',
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
        '--bids-filter-file',
        metavar='FILE',
        help='JSON that maps "megre" and "t1w" to BIDS entities to select',
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


def describe_plan(plan) -> str:
    """What would be run for each series and why others are skipped, for --dry-run."""
    lines = [f'{plan.dataset_name}: {len(plan.series)} series to run, {len(plan.rejected)} not', *plan.notes]
    for one in plan.series:
        echoes = ', '.join(f'{1000 * time:.4g}' for time in one.echo_times)
        lines += [
            '',
            one.name,
            f'  echo times   {echoes} ms',
            f'  field        {one.field_strength:g} T along ({_numbers(one.b0_dir, ", ")}) of the voxel axes',
            f'  grid         {_numbers(one.shape, " x ")} voxels of {_numbers(one.voxel_size, " x ")} mm',
            f'  anatomy      {one.t1w_preproc or one.t1w or "the magnitude of the series (no T1w image)"}',
        ]
        if one.brain_mask:
            lines.append(f'  brain mask   {one.brain_mask}')
        lines += [f'  transforms   {space}: {path}' for space, path, _ in one.template_xfm]
        lines += [f'  lesions      {path}' for path in one.lesions]
        lines += [f'  file         {path}' for path in one.files]
        lines += [f'  note         {note}' for note in one.notes]
    for one in plan.rejected:
        lines += ['', f'{one.name}: {"error" if one.is_error else "skipped"}', f'  {one.reason}']
    return '\n'.join(lines)


def _numbers(values, between):
    return between.join(f'{value:.3g}' for value in values)


def _demo(argv):
    parser = argparse.ArgumentParser('bids_qsm demo', description='Simulate the demo dataset.')
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to write it to')
    out = parser.parse_args([a for a in argv if not re.fullmatch('-v+', a)]).out
    if out.exists():
        raise UserError(f'{out} is there already; delete it or choose another folder.')
    set_threads(min(available_cpus(), 4))
    from bids_qsm.phantom.dataset import demo

    # a dataset that is there is whole
    partial = out.with_name(f'.{out.name}-partial')
    shutil.rmtree(partial, ignore_errors=True)
    demo(partial)
    partial.replace(out)
    print(f'Demo dataset: {out}')
    return 0


COMMANDS = {'demo': _demo}
"""First words that run something else; where a level is given too, they are names of folders."""
