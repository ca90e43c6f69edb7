"""A method of inversion is one function with its facts and one entry: the graph and all else follow."""

import json
import subprocess
import sys

import pytest

from tests.skeletons import write_dataset, write_series

TOY = '''
import json, sys

from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import Need, method


@method(memory=Need(2.0, padded=3), prose='a toy [@tkd]', slow=5)
def toy(field, mask, r2star, grid, *, gain: float = 1.0):
    """Multiply the field."""
    return gain * field * mask


INVERSION['toy'] = toy

from bids_qsm.app.methods import describe
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph, make_plan
from bids_qsm.execution.slurm_scripts import _seconds
from bids_qsm.workflows.memory import Sizes
from nipype.pipeline import engine as pe


def inner(workflow):
    yield workflow
    for node in workflow._graph.nodes():
        if isinstance(node, pe.Workflow):
            yield from inner(node)


settings = {
    'bids_dir': sys.argv[1], 'output_dir': sys.argv[2], 'work_dir': sys.argv[3], 'level': 'participant',
    'skip_bids_validation': True, 'refinement': 'none',
}
options, usual = (Options.from_settings({**settings, 'inversion': name}) for name in ('toy:gain=3', 'tv'))
plan = make_plan(options)
slow, usual = (_seconds(one, plan, [['01']]) for one in (options, usual))
workflows = list(inner(build_graph(options, plan)[0]))
(invert,) = [flow.get_node('invert') for flow in workflows if flow.name == 'inversion_wf']
print(json.dumps({
    'texts': [flow.__desc__ for flow in workflows if flow.name == 'inversion_wf'],
    'memory': invert.mem_gb,
    'expected': 2 + 3 * Sizes.of(plan.series[0]).padded,
    'params': invert.interface.inputs.params,
    'slower': slow / usual,
    'rejected': [one.reason for one in plan.rejected],
    'help': describe('inversion', INVERSION),
}))
'''


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """What the package makes of a method that it has never seen, in a process of its own."""
    root = tmp_path_factory.mktemp('toy')
    data = write_dataset(root / 'data')
    write_series(data, sub='01')
    write_series(data, sub='02', suffix='T2starw', echo_times=(0.02,))
    words = [sys.executable, '-c', TOY, data, root / 'out', root / 'work']
    ran = subprocess.run(words, capture_output=True, encoding='utf-8', check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_its_node_declares_its_memory_and_parameters(found):
    assert found['memory'] == pytest.approx(found['expected'])
    assert found['params'] == {'gain': 3.0}


def test_the_methods_text_cites_it(found):
    (text,) = found['texts']
    assert 'the dipole model inverted with a toy [@tkd].' in text


def test_slurm_and_help_know_it(found):
    assert 1.5 < found['slower'] <= 5
    assert '  toy        Multiply the field.\n             gain=1.0' in found['help']


def test_data_that_it_must_have_are_asked_for(found):
    (reason,) = found['rejected']
    assert '--inversion toy needs R2*' in reason
