import numpy as np
import pytest

from bids_qsm.phantom.blood import Blood, blood_chi


@pytest.mark.parametrize(('oxygenation', 'chi'), [(0.60, 0.570), (0.65, 0.499), (0.70, 0.428), (1.0, 0.0)])
def test_susceptibility_of_blood(oxygenation, chi):
    """The values of 0.27 ppm (cgs), converted to SI by 4 pi."""
    assert blood_chi(oxygenation, 0.42) == pytest.approx(chi, abs=5e-4)


def test_susceptibility_is_linear_in_hematocrit_and_takes_arrays():
    found = blood_chi(np.array([0.5, 0.75]), 0.21)
    np.testing.assert_allclose(found, blood_chi(np.array([0.5, 0.75]), 0.42) / 2)
    assert found[0] == pytest.approx(2 * found[1])


def test_oxygen_content_of_arterial_blood():
    """14 g/dl of haemoglobin at 98 % hold 8.2 umol/ml."""
    assert Blood(hematocrit=14 / 33.5).oxygen_content == pytest.approx(8.20, abs=0.01)
