"""Which series of an output folder are done, failed, running, stopped or not started, from the run logs."""

import json
import time
from pathlib import Path

from bids_qsm.errors import UserError
from bids_qsm.execution.progress import duration
from bids_qsm.execution.run_log import LOST, merge, printable, read_runs

STATES = {
    'failed': 'failed',
    'stopped': 'stopped',
    'running': 'running',
    'waiting': 'not started',
    'done': 'done',
}
LISTED = 10
"""At most so many series that have not started, and damaged logs, are named."""


def show_status(out: str | Path, *, as_json: bool = False, watch: bool = False) -> int:
    """Print the state of ``out``; with ``watch`` after showing it until all runs have ended, or until q.

    Returns 1 where something failed, was stopped or left no log, or where nothing is known of a run, as its
    log is lost; else 0. UserError where nothing was run.
    """
    state = read_status(out)
    if watch:
        from bids_qsm.execution.watch import watch as show  # it reads reports, which takes time to import

        state = show(out, state, lambda: read_status(out))
    print(json.dumps(state, indent=2, ensure_ascii=False) if as_json else describe(state))
    failed, stopped = state['counts']['failed'], state['counts']['stopped'] or _stopped_runs(state)
    is_lost = any(said.endswith(LOST) for said in state['damage'])
    return int(bool(failed or stopped or state['missing_tasks'] or is_lost))


def read_status(out: str | Path) -> dict:
    """The state of ``out``: ``counts`` of series by state, ``series``, ``subjects``, ``runs``.

    ``missing_tasks`` are the tasks (I/N) of the last array job without a log; none if a run without tasks
    has processed everything since; one whose log does not say whether it had tasks may not have.
    ``damage`` has a sentence on each damaged log.
    """
    damage: list[str] = []
    runs = read_runs(Path(out) / 'logs', damage, with_steps=False)
    if not Path(out).is_dir():
        raise UserError(f'there is no folder {out}; name the output folder of a run.')
    if not runs and damage:
        raise UserError(f'{" ".join(damage[:LISTED])} There is no other log; run the same command again.')
    if not runs and Path(out, 'slurm', 'participant.sh').is_file():
        raise UserError(f'no task of {out}/slurm has begun; submit it, or ask squeue whether it waits.')
    if not runs:
        raise UserError(f'{out} has no log of a run (logs/*/events.jsonl); name the output folder of a run.')
    state = merge(runs)
    is_live = {run['id']: run['state'] == 'running' for run in runs}
    for name, one in state['series'].items():
        # the report comes last
        if one['state'] == 'done' and not Path(out, f'{name.partition("_")[0]}.html').exists():
            one['state'] = 'running' if is_live[one['run']] else 'stopped'
    counts = dict.fromkeys(STATES, 0)
    for one in state['series'].values():
        counts[one['state']] += 1
    about = {'output': str(out), 'counts': counts, 'missing_tasks': _missing_tasks(runs), 'damage': damage}
    return {**about, **state}


def _missing_tasks(runs: list[dict]):
    tasks = [run['task'] for run in runs if run.get('task')]
    if not tasks:
        return []
    count = tasks[-1].partition('/')[2]
    first = next(i for i, run in enumerate(runs) if (run.get('task') or '').endswith(f'/{count}'))
    of_part = {'task', 'sessions', 'participants', 'is_partial'}
    if any(run['series'] and not run.keys() & of_part for run in runs[first:]):
        return []
    return [task for task in (f'{i}/{count}' for i in range(1, int(count) + 1)) if task not in tasks]


def describe(state: dict) -> str:
    """``state`` in words, one line a series that is not done."""
    counts = ', '.join(f'{n} {STATES[name]}' for name, n in state['counts'].items() if n)
    lines = [f'{state["output"]}: {len(state["series"])} series: {counts}']
    runs = {run['id']: run for run in state['runs']}
    for name, tell in (('failed', _tell_failed), ('stopped', _tell_stopped), ('running', _tell_running)):
        found = {title: one for title, one in state['series'].items() if one['state'] == name}
        width = max((len(title) for title in found), default=0)
        lines += ['', STATES[name].capitalize()] if found else []
        for title, one in found.items():
            anatomy = state['subjects'].get(title.partition('_')[0], {})
            lines.append(f'  {title:<{width}}  {tell(one, anatomy, runs[one["run"]])}')
    waiting = [title for title, one in state['series'].items() if one['state'] == 'waiting']
    if waiting:
        more = f' and {len(waiting) - LISTED} more' if len(waiting) > LISTED else ''
        lines += ['', 'Not started', f'  {", ".join(waiting[:LISTED])}{more}']
    lines += ['', 'Runs', *_tell_runs(state)]
    if state['missing_tasks']:
        lines.append(f'  no log yet of tasks {", ".join(state["missing_tasks"])}')
    if state['damage']:
        more = [f'and {len(state["damage"]) - LISTED} more'] if len(state['damage']) > LISTED else []
        lines += ['', 'Damaged logs', *(f'  {said}' for said in (*state['damage'][:LISTED], *more))]
    return '\n'.join(map(_plain, lines))


def _plain(line: str):
    indent = len(line) - len(line.lstrip())
    return line[:indent] + ''.join(sign if sign.isprintable() else '?' for sign in line[indent:])


def _tell_failed(one: dict, anatomy: dict, run: dict):
    del anatomy, run
    return '; '.join(printable(f'{failure["step"]}: {failure["reason"]}') for failure in one['failures'])


def _tell_stopped(one: dict, anatomy: dict, run: dict):
    steps = {**anatomy.get('running', {}), **one.get('running', {})}
    reason = run.get('reason', 'no report')
    return f'{_count(one, anatomy)}{"".join(f", at {step}" for step in steps)}: {reason}'


def _tell_running(one: dict, anatomy: dict, run: dict):
    del run
    steps = {**anatomy.get('running', {}), **one.get('running', {})}
    now = time.time()
    since = (f', {step.rpartition(".")[2]} for {duration(now - began)}' for step, began in steps.items())
    return _count(one, anatomy) + ''.join(since)


def _count(one: dict, anatomy: dict):
    done, total = (one.get(key, 0) + anatomy.get(key, 0) for key in ('n_done', 'n_steps'))
    return f'{done} of {total} steps'


def _tell_runs(state: dict):
    live, stopped = [run for run in state['runs'] if run['state'] == 'running'], _stopped_runs(state)
    if n_over := len(state['runs']) - len(live) - len(stopped):
        yield f'  {n_over} ended'
    for run in stopped:
        at = time.strftime('%Y-%m-%d %H:%M', time.localtime(run['seen']))
        yield f'  {_name(run)}: stopped at {at}, {run["reason"]}; the same command resumes it'
    for run in live:
        used, granted = run.get('memory_gb'), run.get('mem_gb')
        memory = f', {used:.1f} of {granted:.1f} GB' if used and granted else ''
        yield f'  {_name(run)}: running for {duration(time.time() - run["started"])}{memory}'


def _stopped_runs(state: dict):
    # stopped runs whose series were all run again are left out
    newest = {one['run'] for one in state['series'].values()}
    return [run for run in state['runs'] if run['state'] == 'stopped' and run['id'] in newest]


def _name(run: dict):
    return f'{run["id"]}, task {run["task"]}' if run.get('task') else run['id']
