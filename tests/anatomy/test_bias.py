import numpy as np
import pytest

from bids_qsm.anatomy.bias import correct_bias, foreground
from tests.anatomy.brains import template, template_affine


def test_foreground_is_the_brain():
    brain, mask = template()
    assert (foreground(brain) & mask).sum() > 0.9 * mask.sum()
    assert (foreground(brain) & ~mask).sum() < 0.05 * mask.sum()


def test_a_smooth_bias_is_mostly_removed():
    brain, mask = template()
    x, y, z = (np.linspace(-1, 1, n) for n in brain.shape)
    bias = np.exp(
        0.4 * x[:, None, None] - 0.3 * y[None, :, None] ** 2 + 0.3 * z[None, None, :] * x[:, None, None]
    )
    corrected, field = correct_bias(brain * bias, template_affine())
    np.testing.assert_allclose(corrected * field, brain * bias, rtol=1e-4, atol=1e-6)
    clean = correct_bias(brain, template_affine())[1]
    # The template has a bias of its own: compare with what is found in it alone.
    left = np.log(field / clean / bias)[mask]
    assert left.std() < 0.35 * np.log(bias)[mask].std()


def test_an_image_without_bias_is_left_nearly_alone():
    brain, mask = template()
    flat = np.where(mask, np.choose(np.digitize(brain, (0.3, 0.65)), (0.3, 0.6, 0.9)), 0)
    _, field = correct_bias(flat, template_affine())
    assert np.log(field[mask]).std() < 0.03


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match='foreground'):
        correct_bias(np.zeros((20, 20, 20)), np.eye(4))
