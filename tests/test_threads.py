"""A step has the threads that its node declares and no more, and their number changes no result."""

import ast
from pathlib import Path

import pytest
from nipype.interfaces.utility import Function

import bids_qsm
from bids_qsm.execution.pool import PoolPlugin
from bids_qsm.workflows import engine
from tests import steps


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


def test_the_number_of_threads_changes_no_array(reproducible):
    """Nor does a second run, as each step is done once for each number."""
    number, different = reproducible.compare_threads((1, 4), 4.0)
    assert number > len(steps.registered()) > 30
    assert different == []


def parallel_functions():
    """(file, function) of what numba compiles for several threads."""
    for path in sorted(Path(bids_qsm.__file__).parent.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef) and any(
                'parallel=True' in ast.unparse(d) for d in node.decorator_list
            ):
                yield path.name, node


def shared_sums(function):
    """Variables that loops over threads add to, though they begin outside, and sums of whole arrays."""
    for loop in ast.walk(function):
        if isinstance(loop, ast.For) and 'prange' in ast.unparse(loop.iter):
            begun = {
                name.id
                for node in ast.walk(loop)
                if isinstance(node, ast.Assign)
                for target in node.targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
            for node in ast.walk(loop):
                if (
                    isinstance(node, ast.AugAssign)
                    and isinstance(node.target, ast.Name)
                    and node.target.id not in begun
                ):
                    yield node.target.id
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and not node.args and isinstance(node.func, ast.Attribute):
            yield from [ast.unparse(node)] if node.func.attr in ('sum', 'mean', 'std', 'var') else []


def test_threads_add_nothing_up_together():
    functions = list(parallel_functions())
    assert len(functions) > 30
    assert [(file, f.name, sums) for file, f in functions if (sums := list(shared_sums(f)))] == []
    wrong = ast.parse(
        'def f(x):\n    s = 0\n    for i in prange(9):\n        s += x[i]\n    return s + x.sum()'
    )
    assert list(shared_sums(wrong.body[0])) == ['s', 'x.sum()']
