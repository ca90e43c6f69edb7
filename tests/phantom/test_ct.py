import numpy as np
import pytest
from nibabel.affines import apply_affine

from bids_qsm.biomarkers.ct import hounsfield_problem
from bids_qsm.phantom.ct import Tomogram, simulate_ct
from bids_qsm.phantom.lesions import Lesion

STONE = Lesion((-24.0, -22.0, 30.0), 4.0, -0.4, kind='calcification')


@pytest.fixture(scope='module')
def scanned(head):
    scan = Tomogram((3, 3, 6), rotation=(8, 0, 5), shift=(5, -4, 3), origin=(50, 0, -200), tilt=10)
    return simulate_ct(head, 1, scan, alone=[STONE])


def at(scanned, head, place):
    """Density where a point of template space is."""
    image, affine, to_ct, _ = scanned
    point = apply_affine(to_ct, head.to_scanner(np.array([place])))
    return image[tuple(np.rint(apply_affine(np.linalg.inv(affine), point)).astype(int)[0])]


def test_it_is_a_ct_of_the_head(scanned, head):
    image, affine, _, added = scanned
    assert hounsfield_problem(image, 'sub-01_ct.nii.gz') is None
    assert (image.dtype, image.shape) == (np.int16, (73, 80, 32))
    assert 100 <= added[0] <= 400
    assert at(scanned, head, (30, -22, 30)) == pytest.approx(30, abs=25)
    assert at(scanned, head, STONE.centre) > 30 + 0.3 * added[0]
    # the gantry is tilted: slices are not perpendicular to the axis that stacks them
    assert affine[:3, 1] @ affine[:3, 2] == pytest.approx(3 * 6 * np.sin(np.radians(10)))
