"""How many threads the numerics may use, and processes that do not outlive the main one."""

import multiprocessing
import os
import sys
import threading


def set_threads(n: int):
    """Give each step ``n`` threads and keep Nipype from calling home; before the numerics are imported."""
    os.environ.update(NO_ET='1', NIPYPE_NO_ET='1')
    # numba and the FFT take the threads; what is left to BLAS and OpenMP is small, and its rounding would
    # depend on their number
    for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[name] = '1'
    if 'numba' in sys.modules:  # its limit is fixed once it runs
        import numba

        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ['NUMBA_NUM_THREADS'] = str(n)


def end_with_main():
    """Have this worker end when the main process is gone, so that a killed run does not write on."""

    def wait():
        main = multiprocessing.parent_process()
        assert main is not None
        main.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
