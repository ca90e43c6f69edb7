"""Tables of two classes have the AUC in the population that they are said to have."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bids_qsm.phantom.classes import Population


@pytest.mark.parametrize('mixed', [False, True])
def test_the_auc_is_that_of_many_units(mixed):
    population = replace(Population(), shared=0.4)
    table = population.draw(0, people=(6000, 4000), units=3, mixed=mixed)
    x = table.drop(columns=['participant_id', 'label'])
    for b in (population.best(5), population.best(2), np.array([0, 0, 1.0, 1, -1])):
        found = roc_auc_score(table['label'] == 'patient', x.to_numpy()[:, : len(b)] @ b)
        assert population.auc(b) == pytest.approx(found, abs=0.02)
    assert population.auc(population.best(5)) > population.auc(np.ones(5))
    assert population.auc(np.zeros(5)) == 0.5
