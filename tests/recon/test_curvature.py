import numpy as np
import pytest

from bids_qsm.recon.background.lbv import lbv
from bids_qsm.recon.curvature import remove_curvature
from bids_qsm.recon.units import ppm_per_radian

ECHO_TIME = 0.02
PHYSICAL = 700e-6 * ppm_per_radian(3.0) / ECHO_TIME
"""Of the phase offset in white matter, in the field of an echo at 20 ms (ppm/mm^2)."""


def test_the_bowl_of_a_phase_offset_goes_and_tissue_stays(head):
    x, y, z = (v * (np.indices(head.grid.shape)[a] - 30) for a, v in enumerate(head.grid.voxel_size))
    # any harmonic part is background
    offset = PHYSICAL * (x**2 + 2 * y**2 + 0.1 * x * z) / 6 + 0.01 * z
    found, curvature, _ = remove_curvature(
        (head.total + offset).astype(np.float32), head.brain, head.grid, ECHO_TIME
    )
    _, own, _ = remove_curvature(head.total, head.brain, head.grid, ECHO_TIME)
    assert curvature == pytest.approx(PHYSICAL, rel=0.1)
    assert abs(own) < 0.05 * PHYSICAL
    before, after, true = (
        lbv(f.astype(np.float32), head.brain, head.grid)[0][head.brain]
        for f in (head.total + offset, found, head.total)
    )
    assert np.std(after - true) < 0.1 * np.std(before - true)


def test_a_mask_without_inside_is_left_alone(head):
    thin = np.zeros(head.grid.shape, bool)
    thin[10] = True
    field, curvature, _ = remove_curvature(head.total, thin, head.grid, ECHO_TIME)
    assert field is head.total
    assert curvature == 0
