"""Nipype's process pool, with quiet workers, one thread budget, and no hang when a worker is killed."""

import logging
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from traceback import format_exception

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from bids_qsm.threads import set_threads


def _start_worker(directory, level, threads, main_pid):
    os.chdir(directory)
    set_threads(threads)
    threading.Thread(target=_end_with, args=(main_pid,), daemon=True).start()
    # Nipype's loggers have handlers of their own; a worker's messages would break the progress display
    for name in ('nipype.workflow', 'nipype.interface', 'nipype.utils'):
        logging.getLogger(name).setLevel(level)


def _end_with(main_pid):
    """End this worker when the main process is gone, so that a killed run does not write on."""
    while True:
        try:
            os.kill(main_pid, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)


class PoolPlugin(MultiProcPlugin):
    """Run nodes in worker processes within the limits ``n_procs`` and ``memory_gb``.

    Each worker has ``n_threads`` for its numerics. Workers start from a fork server, as forking a process
    that holds threads is unsafe. One that dies (out of memory, SIGKILL) fails the nodes that were running,
    and a new pool goes on with the rest; Nipype's own plugin would wait for them forever.
    """

    def __init__(self, plugin_args):
        super().__init__({**plugin_args, 'raise_insufficient': False, 'mp_context': 'forkserver'})
        self.pool.shutdown()
        self._level = plugin_args.get('log_level', 'WARNING')
        self._threads = plugin_args.get('n_threads', 1)
        self.pool = self._new_pool()

    def _new_pool(self):
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self._level, self._threads, os.getpid()),
            mp_context=multiprocessing.get_context('forkserver'),
        )

    def stop(self):
        """End the workers and whatever they are doing."""
        workers = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()

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
