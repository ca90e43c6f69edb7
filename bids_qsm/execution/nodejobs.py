"""Nipype's SLURM plugin: each step is a job that asks for the memory and the CPUs of that step."""

import os
import shlex
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from nipype.pipeline.plugins.slurm import SLURMPlugin

from bids_qsm.errors import UserError
from bids_qsm.execution.resources import MARGIN, WORKER_GB

POLL_SECONDS = 2
"""Between questions to the scheduler, which cover all jobs at once."""


class SlurmPlugin(SLURMPlugin):
    """Submit each node with its memory and CPUs, beside the ``sbatch_args`` of the plugin file.

    Nipype's own calls a shell, asks for one job at a time, and takes an old result for that of a job that
    was cancelled before it began. Jobs that are left when a run ends early are cancelled.
    """

    def __init__(self, plugin_args):
        super().__init__(plugin_args=plugin_args)
        self._queued, self._asked, self._logs = set(), 0.0, {}

    def run(self, graph, config, updatehash=False):
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            if self._pending:  # a run that goes on later would write into the same folders
                with suppress(OSError):
                    _ask('scancel', *map(str, self._pending))
                self._pending.clear()
                self.pending_tasks.clear()

    def _submit_batchtask(self, scriptfile, node):
        folder = Path(node.output_dir())
        for stale in folder.glob('result_*.pklz'):
            stale.unlink()
        log = Path(scriptfile).with_suffix('.log')
        name = node.fullname.removeprefix('bids_qsm_wf.')
        places = [f'--job-name={name}', f'--output={str(log).replace("%", "%%")}']
        words = [*places, *resources(node), *shlex.split(self._sbatch_args or '')]
        for _ in range(1 + self._max_tries):
            ran = _ask('sbatch', '--parsable', *words, str(scriptfile))
            if ran is not None and not ran.returncode:
                job = int(ran.stdout.partition(';')[0])
                break
            time.sleep(self._retry_timeout)
            # without an answer it may be queued all the same, and a twin would write into its folder
            job = None if ran else _find_job(name, scriptfile)
            if job is not None:
                break
        else:
            why = ran.stderr.strip() if ran else 'no answer'
            raise UserError(f'sbatch refused the step {node.fullname}: {why}')
        self._pending[job] = str(folder)
        self._queued.add(job)
        self._logs[job] = log
        return job

    def _get_result(self, job):
        result = super()._get_result(job)
        if result and 'results file does not exist' in (result['traceback'] or ''):
            why = f'job {job} left no result (memory, time limit, cancelled?); see {self._logs[job]}'
            # lines, as Nipype cannot report text of a step without a result
            result['traceback'] = [f'bids_qsm.errors.UserError: {why}\n']
        return result

    def _is_pending(self, job):
        if time.monotonic() - self._asked > POLL_SECONDS:
            ran = _ask_queue('%A')
            if ran is not None:
                self._queued = {int(line) for line in ran.stdout.split()}
            self._asked = time.monotonic()
        return job in self._queued


def _find_job(name, script):
    """Number of the job in the queue that runs ``script``, None where there is none."""
    ran = _ask_queue('%A %o', f'--name={name}')
    if ran is None:
        raise UserError(f'SLURM answers neither sbatch nor squeue about {name}; run again when it does.')
    jobs = (line.strip().partition(' ') for line in ran.stdout.splitlines())
    return next((int(job) for job, _, command in jobs if command == str(script)), None)


def resources(node) -> list[str]:
    """Options of sbatch for a node: memory with what Python itself takes, CPUs, and threads to match."""
    mebibytes = -(-int((WORKER_GB + node.mem_gb) / MARGIN * 1e9) // 2**20)
    return [
        '--ntasks=1',
        f'--cpus-per-task={node.n_procs}',
        f'--mem={mebibytes}M',
        f'--export=ALL,NUMBA_NUM_THREADS={node.n_procs}',
    ]


def _ask_queue(form, *words):
    """What squeue says of the user's jobs; None where it does not answer."""
    ran = _ask('squeue', '--noheader', f'--format={form}', f'--user={os.getuid()}', *words)
    return ran if ran is not None and ran.returncode == 0 else None


def _ask(*words):
    """Run a command of SLURM; None where it does not answer."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
