"""``bids_qsm slurm``: check and plan a run here, and write the scripts that run it on a cluster."""

from bids_qsm.app.options import Options, flag_of
from bids_qsm.app.participant import build_graph, find_resources, make_plan, require_series
from bids_qsm.errors import UserError
from bids_qsm.execution.slurm_scripts import write_scripts
from bids_qsm.templates.spaces import keep_template

OF_TASK = ('nprocs', 'array_task', 'shares', 'dry_run', 'boilerplate_only', 'use_plugin')
"""Settings that the scripts set, or that a task cannot have."""


def write_array(
    settings: dict,
    *,
    tasks: int | None,
    cpus: int,
    image: str | None = None,
    venv: str | None = None,
    sbatch: str = '',
) -> str:
    """Write the scripts of an array (see `write_scripts`) for the ``settings`` of the command line.

    The dataset is checked and templates are downloaded here, not in the tasks. UserError where the array
    cannot run.
    """
    settings = {**settings, 'level': 'participant'}
    for name in OF_TASK:
        if settings.get(name):
            hint = '; give --cpus' if name == 'nprocs' else ''
            raise UserError(f'{flag_of(name)} does not go with bids_qsm slurm{hint}.')
    for name, number in (('--tasks', tasks), ('--cpus', cpus)):
        if number is not None and number < 1:
            raise UserError(f'{name} is {number}; it must be at least 1.')
    if '\n' in sbatch:
        raise UserError('--sbatch is more than one line; give its options on one.')
    asked_gb = settings.pop('mem_gb', None)
    options = Options.from_settings({**settings, 'nprocs': cpus})
    plan = make_plan(options)
    require_series(options, plan)
    resources = find_resources(options)
    for template in resources[0]:
        keep_template(template, options.work_dir / 'templates')
    return write_scripts(
        options,
        plan,
        lambda part: build_graph(options, part, resources)[0],
        tasks=tasks,
        asked_gb=asked_gb,
        image=image,
        venv=venv,
        sbatch=sbatch,
    )
