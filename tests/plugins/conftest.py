import onnxruntime
import pytest

from bids_qsm.plugins import check, graphs, network, sandbox, worker


@pytest.fixture
def here(monkeypatch):
    """Run networks in this process, which is quicker; what limits do is tested in test_sandbox.py."""

    def run_here(job):
        request = sandbox.request_of(job)
        ports = (request[port] for port in ('inputs', 'output', 'channels'))
        model, fixed = graphs.check_model(job.model, *ports)
        reply, result = worker._run(onnxruntime, model, [one.values for one in job.images], request)
        return result, {**reply, 'fixed': fixed, 'held': 0}

    for module in (network, check):
        monkeypatch.setattr(module, 'run_network', run_here)
