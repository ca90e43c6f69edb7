"""Caches for the tests of templates and atlases."""

import socket

import pytest


@pytest.fixture
def no_network(monkeypatch):
    """No name is known and no address answers, at once."""

    def refuse(*_args, **_kwargs):
        raise OSError('the network is off')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr(socket.socket, 'connect', refuse)


@pytest.fixture
def homes(tmp_path, monkeypatch, no_network):  # noqa: ARG001
    """Empty caches of TemplateFlow and nilearn."""
    for name in ('TEMPLATEFLOW_HOME', 'NILEARN_DATA'):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path
