"""Plug-ins on the command line: ``plugin check``, and what a run asks for before it computes anything."""

import json

import pytest

from bids_qsm.app import cli, participant
from bids_qsm.app.options import Options
from bids_qsm.errors import UserError
from bids_qsm.layout import Plan
from bids_qsm.plugins import sandbox
from tests.plugins.conftest import here  # noqa: F401
from tests.plugins.little import write_plugin

pytestmark = pytest.mark.usefixtures('here')
NOTHING = Plan(series=(), rejected=(), dataset_name='none')


@pytest.fixture
def options(data, tmp_path):
    folder = write_plugin(tmp_path / 'net')
    settings = {'bids_dir': data, 'output_dir': tmp_path / 'out', 'level': 'participant'}
    return Options.from_settings({**settings, 'inversion': f'onnx:{folder}'})


def test_check_says_what_a_plugin_needs_or_lacks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, 'set_threads', lambda _: None)
    folder = write_plugin(tmp_path / 'net')
    assert cli.main(['plugin', 'check', str(folder)]) == 0
    said = capsys.readouterr().out
    assert 'little 1.0: step inversion, licence CC0-1.0' in said
    assert 'Golden output: differs by 0.0e+00' in said
    assert 'No fault was found.' in said
    content = json.loads((folder / 'manifest.json').read_text())
    (folder / 'manifest.json').write_text(json.dumps({**content, 'axes': 'ABC', 'b0': 3}))
    assert cli.main(['plugin', 'check', str(folder)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        '2 faults:',
        '- axes is "ABC"; it must be the order of the axes after batch and channel, "XYZ".',
        '- b0 is 3; it must be any, axial, vector or kernel.',
    ]


def test_missing_packages_stop_a_run_before_it_computes(options, monkeypatch):
    monkeypatch.setattr(sandbox, 'PACKAGES', ('onnx', 'no_such_package'))
    with pytest.raises(
        UserError, match=r"--inversion onnx:net needs no_such_package: run `pip install 'bids_qsm"
    ):
        participant.run_participant(options, NOTHING)
    assert not options.output_dir.exists()


def test_another_golden_output_stops_a_run_before_it_computes(options):
    path = options.output_dir.parent / 'net' / 'manifest.json'
    content = json.loads(path.read_text())
    content['output']['sign'] = -1
    content['output']['scale'] = {'mean': 0, 'sd': 2}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='on its golden data the network gives another output'):
        participant.run_participant(options, NOTHING)
    assert not options.output_dir.exists()
