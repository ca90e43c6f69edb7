"""A step has the threads that its node declares and no more, whatever library it computes with."""

import pytest
from nipype.interfaces.utility import Function

from bids_qsm.execution.pool import PoolPlugin
from bids_qsm.workflows import engine


def compute():
    """Work for every library that has threads: what each may use, and how many threads shared the work."""
    from importlib.util import find_spec
    from pathlib import Path

    import numba
    import numpy as np
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric
    from threadpoolctl import threadpool_info

    from bids_qsm.anatomy.transform import apply_affine
    from bids_qsm.recon.fourier import irfft, rfft

    def seconds_by_thread():
        found = {}
        for task in Path('/proc/self/task').iterdir():
            fields = (task / 'stat').read_text().rpartition(') ')[2].split()
            found[task.name] = int(fields[11]) + int(fields[12])
        return found

    before = seconds_by_thread()
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((96, 96, 96), np.float32)
    points = rng.standard_normal((500_000, 3))
    for _ in range(6):
        irfft(rfft(volume), volume.shape)
        apply_affine(np.eye(4), points)
    matrix = rng.standard_normal((900, 900))
    np.linalg.eigh(matrix @ matrix.T)
    registration = SymmetricDiffeomorphicRegistration(CCMetric(3), level_iters=[2])
    registration.verbosity = 0
    registration.optimize(volume[:32, :32, :32], volume[1:33, :32, :32])
    libraries = {info['prefix']: info['num_threads'] for info in threadpool_info()}
    if find_spec('torch'):
        import torch

        libraries['torch'] = torch.get_num_threads()
    spent = [seconds - before.get(name, 0) for name, seconds in seconds_by_thread().items()]
    return numba.get_num_threads(), libraries, sum(spent) / max(spent)


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """What steps of one and of two threads found in a worker that may have two, by their threads."""
    base = tmp_path_factory.mktemp('threads')
    workflow = engine.Workflow(name='wf', base_dir=str(base))
    ports = ['threads', 'libraries', 'shared_by']
    for n in (2, 1):
        function = Function(function=compute, output_names=ports)
        workflow.add_nodes([engine.Node(function, name=f'threads_{n}', n_procs=n)])
    workflow.config['execution'] = {'crashdump_dir': str(base), 'create_report': 'false'}
    results = {}

    def keep(node, status):
        assert status in ('start', 'end'), [path.read_text() for path in base.glob('crash-*')]
        if status == 'end':
            results[node.n_procs] = {port: getattr(node.result.outputs, port) for port in ports}

    args = {'n_procs': 2, 'memory_gb': 2, 'n_workers': 1, 'n_threads': 2, 'status_callback': keep}
    with PoolPlugin(args) as pool:
        workflow.run(plugin=pool, plugin_args=args)
    return results


@pytest.mark.parametrize('n', [1, 2])
def test_numerics_get_the_threads_of_the_node(found, n):
    assert found[n]['threads'] == n


def test_one_thread_does_all_work_of_a_step_that_has_one(found):
    assert found[1]['shared_by'] < 1.1


@pytest.mark.parametrize('n', [1, 2])
def test_libraries_of_linear_algebra_have_one_thread(found, n):
    libraries = {name: n for name, n in found[n]['libraries'].items() if 'gomp' not in name}
    assert any('openblas' in name for name in libraries)
    assert set(libraries.values()) == {1}, found
