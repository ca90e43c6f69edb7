"""What would be run, as a tree on a terminal and as plain text elsewhere, for --dry-run."""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from bids_qsm.errors import plain, size_text
from bids_qsm.execution import estimates
from bids_qsm.execution.estimates import Cost
from bids_qsm.execution.progress import duration

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout import Plan, Series


def show_plan(options: 'Options', plan: 'Plan'):
    """Print what would be run for each series, with estimates, and why others are skipped."""
    if sys.stdout.isatty():
        Console(highlight=False).print(tree_of(options, plan))
    else:
        print(describe_plan(options, plan))


def describe_plan(options: 'Options', plan: 'Plan') -> str:
    """The plan as plain text, each series under its whole name."""
    found = estimates.pace_of_log(plan.series, options)
    pace = found.times
    lines = [_title(plan), *_total(options, plan, found), *plan.notes]
    for one in plan.series:
        stages = _stages(one, options, pace)
        lines += ['', one.name, *(f'  {key:<12} {value}' for key, value in _facts(one))]
        lines.append(f'  estimate     {"; ".join(f"{name} {_said(cost)}" for name, cost in stages.items())}')
        lines += [f'  file         {plain(path)}' for path in one.files]
        lines += [f'  note         {note}' for note in one.notes]
    for one in plan.rejected:
        lines += ['', f'{one.name}: {"error" if one.is_error else "skipped"}', f'  {one.reason}']
    return '\n'.join(lines)


def tree_of(options: 'Options', plan: 'Plan') -> Tree:
    """The plan as a tree: participants, sessions, series, steps."""
    tree = Tree(Text(_title(plan), style='bold'))
    found = estimates.pace_of_log(plan.series, options)
    pace = found.times
    for line in (*_total(options, plan, found), *plan.notes):
        tree.add(Text(line))
    by_subject: dict[str, list[Series]] = {}
    for one in plan.series:
        by_subject.setdefault(one.subject, []).append(one)
    for subject, series in by_subject.items():
        cost, _ = estimates.of_subject(series, options)
        branch = tree.add(_line(f'sub-{subject}', cost.slowed(pace), style='bold'))
        anatomy = estimates.of_anatomy(series[0], options).slowed(pace)
        if anatomy.seconds:
            branch.add(_line('anatomy', anatomy))
        sessions: dict[str | None, Tree] = {None: branch}
        for one in series:
            if one.session not in sessions:
                sessions[one.session] = branch.add(Text(f'ses-{one.session}'))
            _add_series(sessions[one.session], one, options, pace)
    if plan.rejected:
        left = tree.add(Text('not run', style='bold'))
        for one in plan.rejected:
            style = 'red' if one.is_error else 'yellow'
            found = left.add(Text(f'{one.name}: {"error" if one.is_error else "skipped"}', style=style))
            found.add(Text(one.reason))
    return tree


def _stages(one: 'Series', options: 'Options', pace: float) -> dict[str, Cost]:
    return {name: cost.slowed(pace) for name, cost in estimates.of_stages(one, options).items()}


def _add_series(parent: Tree, one: 'Series', options: 'Options', pace: float):
    own = one.name.removeprefix(f'sub-{one.subject}').removeprefix(f'_ses-{one.session}').lstrip('_')
    stages = _stages(one, options, pace)
    whole = Cost(sum(cost.seconds for cost in stages.values()), max(cost.gb for cost in stages.values()))
    branch = parent.add(_line(own or 'series', whole, style='cyan'))
    for key, value in _facts(one):
        branch.add(Text(f'{key:<12} {value}', style='dim'))
    for name, cost in stages.items():
        branch.add(_line(name, cost))
    for note in one.notes:
        branch.add(Text(f'note: {note}', style='yellow'))
    first = plain(one.files[0].name)
    branch.add(Text(f'{len(one.files)} files, such as {first}', style='dim'))


def _title(plan: 'Plan'):
    return f'{plan.dataset_name}: {len(plan.series)} series to run, {len(plan.rejected)} not'


def _total(options: 'Options', plan: 'Plan', pace: estimates.Pace):
    """Sentences on time and memory of the whole run."""
    if not plan.series:
        return
    cost = estimates.of_run(plan.series, options).slowed(pace.times)
    basis = 'estimates for an idle machine like those that they were measured on'
    if pace.basis:
        basis = f'estimates, {pace.basis}'
    yield (
        f'About {duration(cost.seconds)} from nothing with {options.nprocs} CPUs and at least '
        f'{cost.gb:.1f} GB of memory (--mem is {options.mem_gb:.1f} GB): {basis}.'
    )
    if pace.note:
        yield pace.note
    if cost.gb > options.mem_gb:
        yield f'It would be refused, as --mem is too little: give {math.ceil(10 * cost.gb) / 10:g}G or more.'
    if asked := estimates.not_counted(plan.series, options):
        yield f'Not in the time: {", ".join(asked)}.'


def _line(name: str, cost: Cost, style: str = ''):
    return Text.assemble((name, style), f'  {_said(cost)}')


def _said(cost: Cost):
    return f'{duration(max(1.0, cost.seconds))}, {max(0.1, cost.gb):.1f} GB'


def _facts(one: 'Series') -> Iterable[tuple[str, object]]:
    """What the files of a series say: (what, value)."""
    echoes = ', '.join(f'{1000 * time:.4g}' for time in one.echo_times)
    yield ('starts from', ', '.join(one.given_ports)) if one.given else ('echo times', f'{echoes} ms')
    yield 'B0', f'{_tesla(one)} along ({", ".join(f"{part:.3g}" for part in one.b0_dir)}) of the voxel axes'
    yield 'grid', _voxels(one.shape, one.voxel_size)
    if one.resampled:
        yield 'resampled to', _voxels(one.resampled_shape, one.resampled)
    yield 'anatomy', one.t1w_preproc or one.t1w or 'the magnitude of the series (no T1w image)'
    if one.brain_mask:
        yield 'brain mask', one.brain_mask
    for space, path, _ in one.template_xfm:
        yield 'transforms', f'{space}: {path}'
    for item in one.inputs:
        yield item.query, plain(item.path)


def _tesla(one: 'Series'):
    return f'{one.field_strength:g} T' if one.field_strength else 'strength not given,'


def _voxels(shape: Iterable[int], size: Iterable[float]):
    return f'{size_text(shape)} voxels of {size_text(size)} mm'
