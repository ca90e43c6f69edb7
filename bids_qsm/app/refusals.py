"""Whether the images of a series will be refused, found before the graph is built."""

import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path

from nipype.pipeline.engine.utils import generate_expanded_graph

from bids_qsm.app.options import Options
from bids_qsm.app.pages import PAGES, address
from bids_qsm.errors import UserError
from bids_qsm.execution.resources import MAIN_GB
from bids_qsm.interfaces.phase import ConditionPhase
from bids_qsm.interfaces.step import Data
from bids_qsm.layout import Plan, Series
from bids_qsm.layout.series import Rejected
from bids_qsm.workflows.base import init_bids_qsm_wf, node_name, series_label
from bids_qsm.workflows.engine import has_ended
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.series import init_series_phase_wf

GRAPH = signature(init_bids_qsm_wf).parameters['name'].default
"""Folder of a graph in the working folder."""
TRIED = 3
"""Series, at most, whose images are read before a run; to read hundreds would take as long as the run."""
BESIDE_GB = 0.9
"""Memory of the worker that finds templates and atlas meanwhile, as measured."""


def condition_step(one: Series, options: Options, folder: Path | None = None) -> ConditionPhase:
    """The step of the graph of a series with phase that refuses images that give no right map.

    The frames of a run are averaged first, as in the graph, into ``folder``, which no others need; UserError
    where this refuses them.
    """
    name = node_name(f'{series_label(one)}_phase')
    workflow = init_series_phase_wf(series=one, options=options, omp_nthreads=1, name=name)
    graph = generate_expanded_graph(workflow._create_flat_graph())  # where it has its inputs
    steps = {node.name: node.interface for node in graph}
    step = steps['condition']
    if 'average_frames' in steps:
        mean = steps['average_frames'].run(cwd=str(folder)).outputs
        step.inputs.trait_set(magnitude=[mean.magnitude], phase=[mean.phase], earlier=mean.findings)
    return step


def without_refused(options: Options, plan: Plan) -> Plan:
    """The plan, with its series as errors where the first step of every one would refuse its phase.

    The first series is read, and the next, at most `TRIED`, only where it is refused; none where that would
    take more memory than the run may, or where it passed in an earlier run. What is refused is said at once;
    where there are more series than were read the run goes on.
    """
    refused: list[Rejected] = []
    for one in plan.series[:TRIED]:
        if not _is_to_try(one, options):
            return plan
        step = condition_step(one, options)  # a run of frames is not tried
        try:
            step.compute(Data(step.inputs))
        except UserError as error:
            refused.append(Rejected(one.name, str(error), True))
        except Exception:  # that of the step, when it is its turn
            return plan
        else:
            return plan
    if not refused:
        return plan
    said, n = ' '.join(f'{one.name}: {one.reason}' for one in refused), len(plan.series)
    page = address(PAGES['app.refusals'])
    if len(refused) < n:
        _say(
            f'the phase of the first {len(refused)} of {n} series will be refused; the run goes on, as '
            f'others may be right. "bids_qsm check {options.bids_dir}" tells of all. {said} {page}'
        )
        return plan
    others = [one.name for one in plan.rejected if one.is_error]
    more = f' Not run for other reasons: {", ".join(others)}.' if others else ''
    _say(f'the phase of every series is refused, so nothing is computed. {said}{more} {page}')
    return replace(plan, series=(), rejected=(*plan.rejected, *refused))


def has_to_try(options: Options, plan: Plan) -> bool:
    """Whether `without_refused` will read images."""
    return bool(plan.series) and _is_to_try(plan.series[0], options)


def _is_to_try(one: Series, options: Options) -> bool:
    """Whether reading a series now is worth its time: a run repeats it where it has not done so yet."""
    if one.given or one.frames > 1 or one.coils > 1:
        return False
    if MAIN_GB + BESIDE_GB + need('condition', Sizes.of(one)) > options.mem_gb:
        return False
    folder = options.output_dir / f'sub-{one.subject}'
    if any(folder.rglob(f'{one.name}_*Chimap.nii.gz')):
        return False
    parts = (node_name(f'sub-{one.subject}'), node_name(f'{series_label(one)}_phase'), 'condition')
    return not has_ended(options.work_dir.joinpath(GRAPH, *parts))


def _say(text: str):
    print(f'bids_qsm: {text}', file=sys.stderr)
