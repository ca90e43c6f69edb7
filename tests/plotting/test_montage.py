import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bids_qsm.plotting import montage
from bids_qsm.plotting.maps import Look

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
AFFINE[:3, 3] = -24
FLIPPED = np.diag([-2.0, 2.0, 4.0, 1.0])
FLIPPED[:3, 3] = 22, -24, -24


def drawn(n, affine=AFFINE, bright=()):
    """Picture of ``n`` candidates in x = 0, where voxels at the points ``bright`` are bright."""
    row = {'x': 0.0, 'y': 2.0, 'z': -20.0, 'class': 'microbleed', 'certainty': 'possible', 'side': 'L'}
    row |= {'mars_region': 'frontal', 'diameter_mm': 3.0, 'moment': 5.0, 'moment_se': 0.4}
    table = pd.DataFrame([{'candidate': i + 1, **row} for i in range(n)], columns=['candidate', *row])
    magnitude = np.zeros((24, 24, 12), np.float32)
    for at in bright:
        magnitude[tuple(np.rint(np.linalg.inv(affine) @ [*at, 1])[:3].astype(int))] = 1
    maps = {'magnitude': magnitude, 'chi': np.zeros((24, 24, 12), np.float32)}
    looks = {'magnitude': Look('Magnitude', 'arbitrary'), 'chi': Look('χ', 'ppm', window=(-0.1, 0.2))}
    png = montage.plot_candidates(table, maps, affine, looks=looks)
    return Image.open(io.BytesIO(png))


@pytest.mark.parametrize('affine', [AFFINE, FLIPPED])
def test_left_of_the_subject_is_on_the_left(affine):
    plain, marked = (np.asarray(drawn(1, affine, one).convert('L'), int) for one in ((), [(-10, 2, -20)]))
    changed = np.argwhere(abs(marked - plain) > 100)
    width = plain.shape[1] / (montage._TEXT + 3 * montage._SIDE)
    middle = (montage._TEXT + montage._SIDE / 2) * width
    assert len(changed)
    assert (changed[:, 1] < middle).all()
    assert (changed[:, 1] > middle - montage._SIDE / 2 * width).all()


def test_a_row_each_and_not_too_many(monkeypatch):
    # also where the candidate lies near the wall of the volume, and where there are none
    monkeypatch.setattr(montage, 'MOST', 2)
    none, one, two = (drawn(n).size for n in (0, 1, 2))
    assert none == one
    assert two[1] > one[1]
    assert drawn(4).size == two
