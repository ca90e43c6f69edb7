"""Whether the images of a series will be refused, found before the graph is built."""

import sys

from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.interfaces.phase import ConditionPhase
from bids_qsm.interfaces.step import Data
from bids_qsm.layout import Plan, Series

TRIED = 3
"""Series, at most, whose images are read before a run; to read hundreds would take as long as the run."""


def condition_step(one: Series, options: Options, *, filtered: str) -> ConditionPhase:
    """The first step of a series with phase, which refuses images that give no right map."""
    step = ConditionPhase(
        **{
            part: [str(path) for path in getattr(one, part)]
            for part in ('magnitude', 'phase', 'real', 'imag')
            if getattr(one, part) and (part not in ('magnitude', 'phase') or one.phase)
        },
        echo_times=list(one.echo_times),
        coils=one.coils,
        said=one.filtered,
        manufacturer=one.manufacturer or '',
        scaling=options.phase_scaling,
        sign=options.phase_sign,
        slice_flip=options.slice_flip,
        bipolar=options.bipolar,
        filtered=filtered,
    )
    if one.field_strength:
        step.inputs.field_strength = one.field_strength
    return step


def require_some_phase(options: Options, plan: Plan):
    """Raise UserError where every series would be refused by its first step; warn where the first few would.

    It reads as many series as are refused in a row, at most `TRIED`.
    """
    if not plan.series or any(one.given or one.frames > 1 for one in plan.series):
        return
    refused = []
    for one in plan.series[:TRIED]:
        step = condition_step(one, options, filtered=options.filtered_phase)
        try:
            step.compute(Data(step.inputs))
        except UserError as error:
            refused.append(f'{one.name}: {error}')
        except Exception:  # that of the step, when it is its turn
            return
        else:
            return
    said, n = ' '.join(refused), len(plan.series)
    if len(refused) == n:
        raise UserError(f'the phase of every series would be refused, so nothing is run. {said}')
    print(
        f'bids_qsm: the phase of the first {len(refused)} of {n} series will be refused; the run goes on, as '
        f'others may be right. "bids_qsm check {options.bids_dir}" tells of all. {said}',
        file=sys.stderr,
    )
