import onnxruntime
import pytest

from bids_qsm.plugins import check, graphs, network, sandbox, worker


@pytest.fixture
def here(monkeypatch):
    """Run networks in this process, which is quicker; what limits do is tested in test_sandbox.py."""

    def run_here(manifest, model, images, plan, tiles, machine):
        request = sandbox.request_of(manifest, model, images, plan, tiles, machine)
        model, fixed = graphs.check_model(model, request['inputs'], request['output'])
        reply, result = worker._run(onnxruntime, model, [one.values for one in images], request)
        return result, {**reply, 'fixed': fixed, 'held': 0}

    for module in (network, check):
        monkeypatch.setattr(module, 'run_network', run_here)
