"""Each step as a job of a batch system, by a plugin of Nipype: what a job asks for, and safety with SLURM."""

import math
import os
import shlex
import subprocess
import time
import zlib
from contextlib import suppress
from pathlib import Path

from networkx import DiGraph
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.plugins.base import PluginBase
from nipype.pipeline.plugins.slurm import SLURMPlugin

from bids_qsm.errors import UserError
from bids_qsm.execution.resources import MARGIN, WORKER_GB

POLL_SECONDS = 2
"""Between questions to the scheduler, which cover all jobs at once."""
SBATCH = '--ntasks=1 --cpus-per-task={cpus} --mem={mem_mb}M --export=ALL,NUMBA_NUM_THREADS={cpus}'


class SlurmPlugin(SLURMPlugin):
    """Nipype's plugin, safe to run again and with a controller that is busy.

    Nipype's own (1.11) takes an old result for that of a job that was killed, leaves jobs in the queue when a
    run ends early, ends where a job left no result or a path has blanks, does not say why sbatch refused, and
    takes jobs for ended where squeue does not answer, which it asks for each job alone.
    """

    def __init__(self, plugin_args: dict):
        super().__init__(plugin_args=plugin_args)
        self._queued, self._asked, self._logs = set(), 0.0, {}

    def run(self, graph: DiGraph, config: dict, updatehash: bool = False):
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            if self._pending:  # a run that goes on later would write into the same folders
                with suppress(OSError):
                    _ask('scancel', *map(str, self._pending))
                self._pending.clear()
                self.pending_tasks.clear()

    def _submit_batchtask(self, scriptfile: str, node: Node):
        folder = node.output_dir()
        for stale in Path(folder).glob('result_*.pklz'):
            stale.unlink()
        # a job waits for one of its name, which has the same folder: that of a killed run, or one that sbatch
        # queued without saying so
        name = f'{node.fullname.removeprefix("bids_qsm_wf.")}-{zlib.crc32(folder.encode()):08x}'
        log = f'{scriptfile}.log'
        words = [f'--job-name={name}', '--dependency=singleton', f'--output={log.replace("%", "%%")}']
        words += [*shlex.split(node.plugin_args['sbatch_args']), scriptfile]
        for _ in range(1 + self._max_tries):
            ran = _ask('sbatch', '--parsable', *words)
            if ran.returncode == 0:
                break
            time.sleep(self._retry_timeout)
        else:
            raise UserError(f'sbatch refused the step {node.fullname}: {ran.stderr.strip()}')
        job = int(ran.stdout.partition(';')[0])
        self._pending[job], self._logs[job] = folder, log
        self._queued.add(job)
        return job

    def _get_result(self, taskid: int):
        result = super()._get_result(taskid)
        if result and 'results file does not exist' in (result['traceback'] or ''):
            log = self._logs[taskid]
            why = f'job {taskid} left no result (memory, time limit, cancelled?); see {log}'
            # lines, as Nipype cannot report text of a step without a result
            result['traceback'] = [f'bids_qsm.errors.UserError: {why}\n']
        return result

    def _is_pending(self, taskid: int):
        if time.monotonic() - self._asked > POLL_SECONDS:
            ran = _ask('squeue', '--noheader', '--format=%A', f'--user={os.getuid()}')
            if ran.returncode == 0:  # else the controller is busy or away
                self._queued = {int(line) for line in ran.stdout.split()}
            self._asked = time.monotonic()
        return taskid in self._queued


def _ask(*words: str):
    return subprocess.run(words, capture_output=True, text=True, check=False)


def request_resources(workflow: Workflow, plugin: PluginBase | str, plugin_args: dict):
    """Have a batch system give each node its CPUs, and its memory with what Python itself takes.

    SLURM is asked by itself, and what ``sbatch_args`` say wins. The names of resources of SGE and PBS are the
    site's: in ``qsub_args``, ``{cpus}`` and ``{mem_mb}`` stand for those of the step.
    """
    key = 'sbatch_args' if isinstance(plugin, SlurmPlugin) else 'qsub_args'
    words = ' '.join([SBATCH] * isinstance(plugin, SlurmPlugin) + [plugin_args.get(key, '')])
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        mem_mb = math.ceil((WORKER_GB + node.mem_gb) / MARGIN * 1e9 / 2**20)
        asked = words.replace('{cpus}', str(node.n_procs)).replace('{mem_mb}', str(mem_mb))
        node.plugin_args = {key: asked, 'overwrite': True}
