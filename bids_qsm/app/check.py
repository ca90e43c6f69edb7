"""What can be told of a dataset before it is run: whether it can be, and how it compares to the consensus."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import pandas as pd

from bids_qsm.app.options import Options
from bids_qsm.app.participant import find_share, own_participants, require_methods, require_series
from bids_qsm.app.refusals import condition_step
from bids_qsm.applications import application, modules
from bids_qsm.biomarkers.consensus import CHECKS, COLUMNS, counts, judge
from bids_qsm.biomarkers.consensus.check import STATES, Facts
from bids_qsm.biomarkers.consensus.measure import found_numbers, measure_images
from bids_qsm.derivatives.files import atomic_write
from bids_qsm.derivatives.tables import write_table
from bids_qsm.errors import UserError, plain, size_text
from bids_qsm.execution import estimates
from bids_qsm.execution.resources import plan_capacity
from bids_qsm.interfaces.step import Data
from bids_qsm.layout import Plan, Series, find_series, participants
from bids_qsm.layout.validator import validate
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.resolution import coarsen
from bids_qsm.workflows.applications import memories_of, methods_of

SHOWN = ('fail', 'warn')
"""States that are listed one by one."""


@dataclass(frozen=True)
class Verdict:
    """What was found of a series; ``refused`` says why the participant level would not run it."""

    name: str
    about: str = ''
    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*COLUMNS]))
    refused: str = ''
    skipped: str = ''
    notes: tuple[str, ...] = ()
    anatomy: str = ''
    possible: tuple[str, ...] = ()
    """Applications that the series has all inputs of."""
    impossible: Mapping[str, str] = field(default_factory=dict)
    """Application -> what it lacks."""


def run_check(settings: dict, *, as_json: bool, tsv: Path | None, headers: bool) -> int:
    """Check a dataset and print what was found; return 1 where a series would be refused, else 0.

    Parameters
    ----------
    settings : dict
        Settings of `Options`, without output folder and level.
    as_json : bool
        Print JSON.
    tsv : Path, optional
        File to which the checks of all series are written.
    headers : bool
        Whether only sidecars and headers are read.
    """
    if tsv is not None:
        _require_place(tsv)
    with tempfile.TemporaryDirectory(prefix='bids_qsm-') as folder:
        # nothing is written there
        own = {'output_dir': f'{folder}/out', 'work_dir': f'{folder}/work', 'level': 'participant'}
        own['skip_bids_validation'] = True
        options = Options.from_settings({**settings, **own})
        plan = find_share(options)
        plan, whole = _refused_whole(options, plan, is_valid=settings.get('skip_bids_validation', False))
        usable, faults = _usable(settings | own, [one.name for one in plan.series])
        verdicts = [
            check_series(one, options, usable.get(one.name), faults.get(one.name, {}), headers=headers)
            for one in plan.series
        ]
    for one in plan.rejected:
        verdicts.append(Verdict(one.name, **{'refused' if one.is_error else 'skipped': one.reason}))
    verdicts.sort(key=lambda one: one.name)
    if tsv is not None:
        rows = [{'series': one.name, **row} for one in verdicts for row in one.table.to_dict('records')]
        table = pd.DataFrame(rows, columns=['series', *COLUMNS])
        atomic_write(tsv, lambda path: write_table(table, path))
    if as_json:
        print(json.dumps(_as_json(plan, verdicts, whole), indent=2, ensure_ascii=False))
    else:
        print(describe(plan, verdicts, whole))
    return int(bool(whole) or any(one.refused for one in verdicts))


def _refused_whole(options: Options, plan: Plan, *, is_valid: bool) -> tuple[Plan, list[str]]:
    """The plan with more notes, and why the participant level would run nothing at all.

    With ``is_valid`` the validator is not asked.
    """
    notes: list[str] = []

    def validated():
        subjects = own_participants(options, participants(options))
        notes.extend(validate(options.bids_dir, [*plan.series], [*plan.rejected], subjects))

    def require_some():
        if not options.array_task:  # a task that has nothing to run is done
            require_series(options, plan)

    found = []
    for require in (
        *([] if is_valid else [validated]),
        require_some,
        lambda: require_methods(options),
        lambda: _require_memory(options, plan),
    ):
        try:
            require()
        except UserError as error:
            found.append(str(error))
    return replace(plan, notes=(*plan.notes, *notes)), found


def _require_place(tsv: Path):
    """Raise UserError where a table cannot be written, before hours of reading."""
    if tsv.is_dir():
        raise UserError(f'--tsv {tsv} is a folder; give the name of a file.')
    there = next(folder for folder in tsv.absolute().parents if folder.exists())
    if not there.is_dir():
        raise UserError(f'--tsv {tsv} cannot be written, as {there} is a file; choose another folder.')


def check_series(
    one: Series, options: Options, planned: Series | None, faults: Mapping[str, str], *, headers: bool
) -> Verdict:
    """Checks of a series.

    ``planned`` is the same one planned with all applications, but those whose input cannot be used:
    ``faults`` says why.
    """
    numbers, refused = {}, ''
    if not (headers or one.given):
        numbers, refused = _measured(one, options)
    facts = Facts(
        sidecar=one.sidecar,
        echo_times=one.echo_times,
        field_strength=one.field_strength,
        shape=one.resampled_shape,
        voxel_size=one.resampled or one.voxel_size,
        b0_dir=one.b0_dir,
        numbers=numbers,
        methods=methods_of(one, options, options.atlas),
    )
    brought = f', brought to {size_text(one.resampled)} mm' if one.resampled else ''
    tesla = f'{one.field_strength:.3g} T, ' if one.field_strength else ''
    n = len(one.echo_times)
    echoes = f'{n} {"echo" if n == 1 else "echoes"}, ' if n else f'starts from {", ".join(one.given_ports)}, '
    with_regions = planned is not None and planned.has_regions
    possible, impossible = _applications(planned, faults) if planned and with_regions else ((), faults)
    notes = () if one.has_regions else ('It gets maps alone: no regions, and no applications.',)
    return Verdict(
        one.name,
        f'{tesla}{echoes}{size_text(one.voxel_size)} mm{brought}',
        judge(facts),
        refused,
        notes=(*notes, *one.warnings),
        anatomy='T1w' if one.t1w or one.t1w_preproc else 'no T1w image: the magnitude stands in for it',
        possible=possible,
        impossible=impossible,
    )


def _measured(one: Series, options: Options) -> tuple[dict[str, float], str]:
    """Numbers of the images, and why the participant level would refuse them."""
    refused, found = '', None
    with tempfile.TemporaryDirectory(prefix='bids_qsm-') as folder:
        try:
            step = condition_step(one, options, Path(folder))
        except UserError as error:
            return {}, str(error)
        for filtered in dict.fromkeys((options.filtered_phase, 'accept')):
            step.inputs.filtered = filtered
            try:
                found = step.compute(Data(step.inputs))
                break
            except UserError as error:
                refused = refused or str(error)
        if found is None:
            return {}, refused
        grid, (magnitude, phase, notes) = Data(step.inputs)['grid'], found
    affine = nib.load(one.files[0]).affine
    if one.resampled:
        magnitude, phase, to_old = coarsen(magnitude, phase, grid, one.resampled)
        affine, grid = affine @ to_old, Grid(one.resampled_shape, one.resampled, grid.b0_dir)
    measured = measure_images(magnitude, phase, one.echo_times, grid, affine)
    return {**found_numbers(notes['findings']), **measured}, refused


def _require_memory(options: Options, plan: Plan):
    """Raise UserError where a series needs more memory than there is: the run does not even begin then."""
    if options.use_plugin:  # it has its own limits
        return
    steps, by_subject = [], defaultdict(list)
    for one in plan.series:
        by_subject[one.subject].append(one)
        costs = {'anatomy': estimates.of_anatomy(one, options), **estimates.of_stages(one, options)}
        steps += [(f'{one.name}, {name},', cost.gb) for name, cost in costs.items()]
    for own in by_subject.values():
        steps += [(f'{name},', gb) for name, gb in memories_of(own, options).items()]
    plan_capacity(steps, nprocs=options.nprocs, mem_gb=options.mem_gb)


def _usable(settings: dict, known: Collection[str]) -> tuple[dict[str, Series], dict[str, dict[str, str]]]:
    """The series ``known`` by name, planned with all applications, and what some of these cannot run for.

    Where the input of one application cannot be used, the series is planned with all others.
    """

    def planned(names: Collection[str]) -> tuple[dict[str, Series], dict[str, str]]:
        try:
            plan = find_series(Options.from_settings({**settings, 'applications': [*names]}))
        except UserError as error:
            return {}, dict.fromkeys(known, str(error))
        return {one.name: one for one in plan.series}, {one.name: one.reason for one in plan.rejected}

    usable, _ = planned(modules())
    faults: dict[str, dict[str, str]] = {name: {} for name in known if name not in usable}
    for app in modules() if faults else ():
        found, why = planned([app])
        for name, of_series in faults.items():
            if name not in found:
                of_series[app] = why.get(name, '')
    for left_out in {frozenset(of_series) for of_series in faults.values()}:
        found, _ = planned([app for app in modules() if app not in left_out])
        usable |= {name: found[name] for name, of in faults.items() if left_out == {*of} and name in found}
    return usable, faults


def _applications(one: Series, faults: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Applications whose inputs a series has, and what others lack."""
    named = (use.name for use in one.applications)
    possible = tuple(name for name in named if name != 'checks' and application(name).asked)
    lacking = {}
    for name in modules():
        app = application(name)
        if name in possible or not app.asked or name == 'checks':
            continue
        if name in faults:
            lacking[name] = faults[name].rstrip('.')
            continue
        said = (note for note in one.notes if note.startswith(f'{app.title}: left out, as '))
        reason = next(said, '').partition('left out, as ')[2]
        lacking[name] = re.sub('^(there is|the series has|it takes|it uses) ', '', reason).rstrip('.')
    return possible, lacking


def describe(plan: Plan, verdicts: list[Verdict], whole: Collection[str] = ()) -> str:
    """What was found, as text: fails and warnings one by one, then a summary.

    ``whole`` says why nothing would be run.
    """
    lines = [f'{plan.dataset_name}: {len(verdicts)} series', *plan.notes]
    lines += [f'REFUSED  {reason}' for reason in whole]
    for one in verdicts:
        lines += ['', f'{one.name}: {one.about}' if one.about else one.name]
        lines += [f'  REFUSED  {one.refused}'] * bool(one.refused)
        lines += [f'  skipped  {one.skipped}'] * bool(one.skipped)
        lines += [f'  note     {note}' for note in one.notes]
        rows = one.table.to_dict('records')
        lines += [_line(row) for row in rows if row['state'] in SHOWN]
        if rows:
            number = ', '.join(f'{n} {state}' for state, n in counts(one.table).items())
            lines.append(f'  checks   {number}')
            unknown = [row['check'] for row in rows if row['state'] == 'unknown']
            lines += [f'  unknown  {", ".join(unknown)}'] * bool(unknown)
        lines += [f'  anatomy  {one.anatomy}'] * bool(one.anatomy)
        lines += [f'  can run  --{" --".join(one.possible)}'] * bool(one.possible)
        lacking = [f'--{name} ({why})' if why else f'--{name}' for name, why in one.impossible.items()]
        lines += [f'  cannot   {"; ".join(lacking)}'] * bool(lacking)
    failing = sum((one.table['state'] == 'fail').any() for one in verdicts)
    severe = sum(
        ((one.table['state'] == 'fail') & (one.table['severity'] == 'high')).any() for one in verdicts
    )
    refused = sum(bool(one.refused) for one in verdicts)
    skipped = sum(bool(one.skipped) for one in verdicts)
    lines += [
        '',
        f'{len(verdicts) - refused - skipped} of {len(verdicts)} series can be run, {refused} would be '
        f'refused, {skipped} have nothing to run. {failing} fail one of {len(CHECKS)} checks or more, '
        f'{severe} one of high severity.',
        *(['Nothing would be run, for what stands at the top.'] if whole else []),
    ]
    return '\n'.join(map(plain, lines))


def _line(row: dict) -> str:
    shown = 'FAIL' if row['state'] == 'fail' else row['state']
    return (
        f'  {shown:<5}{row["severity"]:<7} {row["check"]}: {row["value"]} (asked: {row["threshold"]}). '
        f'{row["advice"]}'
    )


def _as_json(plan: Plan, verdicts: list[Verdict], whole: list[str]) -> dict:
    series = [
        {
            'series': one.name,
            'about': one.about,
            'refused': one.refused or None,
            'skipped': one.skipped or None,
            'notes': list(one.notes),
            'states': counts(one.table),
            'checks': one.table.to_dict('records'),
            'can_run': list(one.possible),
            'cannot_run': dict(one.impossible),
        }
        for one in verdicts
    ]
    return {
        'dataset': plan.dataset_name,
        'refused': whole,
        'states': list(STATES),
        'notes': list(plan.notes),
        'series': series,
    }
