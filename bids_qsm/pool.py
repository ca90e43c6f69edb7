"""Nipype's process pool, with quiet workers, one thread budget, and no hang when a worker is killed."""

import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from traceback import format_exception

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node


def _start_worker(directory, level):
    os.chdir(directory)
    # Nipype's loggers have handlers of their own; a worker's messages would break the progress display
    for name in ('nipype.workflow', 'nipype.interface', 'nipype.utils'):
        logging.getLogger(name).setLevel(level)


class PoolPlugin(MultiProcPlugin):
    """Run nodes in worker processes within the limits ``n_procs`` and ``memory_gb``.

    Workers start from a fork server, as forking a process that holds threads is unsafe. A worker
    that dies (out of memory, SIGKILL) fails the nodes that were running, and a new pool goes on
    with the rest; Nipype's own plugin would wait for them forever.
    """

    def __init__(self, plugin_args):
        super().__init__({**plugin_args, 'raise_insufficient': False, 'mp_context': 'forkserver'})
        self.pool.shutdown()
        self._level = plugin_args.get('log_level', 'WARNING')
        self.pool = self._new_pool()

    def _new_pool(self):
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self._level),
            mp_context=multiprocessing.get_context('forkserver'),
        )

    def _submit_job(self, node, updatehash=False):
        self._taskid += 1
        try:
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        except RuntimeError:  # BrokenProcessPool
            self.pool = self._new_pool()
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        taskid = self._taskid
        future.add_done_callback(lambda done: self._finish(done, taskid))
        self._task_obj[taskid] = future
        return taskid

    def _finish(self, future, taskid):
        error = future.exception()
        if error is None:
            self._taskresult[taskid] = future.result()
        else:
            self._taskresult[taskid] = {
                'result': None,
                'traceback': format_exception(error),
                'taskid': taskid,
            }
