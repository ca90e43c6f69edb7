"""What every registered method brings along: its memory, what the methods text says of it, its references."""

import re

import pytest

from bids_qsm.app.methods import registries
from bids_qsm.recon.registry import facts, needs
from bids_qsm.reports.citations import bibliography

METHODS = {
    f'{step} {name}': function
    for step, registry in registries().items()
    for name, function in registry.items()
    if (step, name) != ('refinement', 'none')
}
UNCITED = (
    *('mask combined', 'mask brain', 'mask quality', 'mask magnitude'),
    *('reference brain', 'reference none', 'refinement segment'),
)
"""Methods without a publication."""


@pytest.mark.parametrize('name', METHODS)
def test_every_method_has_facts(name):
    about = facts(METHODS[name])
    assert about.memory.fixed > 0
    assert about.slow >= 1
    for text in (about.prose, about.single_echo):
        assert text == text.strip() != ''
        keys = re.findall(r'@(\w+)', text)
        assert set(keys) <= set(bibliography())
        assert bool(keys) == (name not in UNCITED)


def test_data_of_a_method_are_in_its_signature():
    def fit(field, mask, r2star=None, *, gain: int = 2):
        return field, mask, r2star, gain

    assert needs(fit) == ['field', 'mask', 'r2star']
    assert needs(fit, optional=False) == ['field', 'mask']
