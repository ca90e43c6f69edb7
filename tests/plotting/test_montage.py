import io

import numpy as np
import pandas as pd
from PIL import Image

from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.montage import MOST, plot_candidates


def pictures(n):
    row = {'x': 0.0, 'y': 2.0, 'z': -20.0, 'class': 'microbleed', 'certainty': 'possible', 'side': 'L'}
    row |= {'mars_region': 'frontal', 'diameter_mm': 3.0, 'moment': 5.0, 'moment_se': 0.4}
    table = pd.DataFrame([{'candidate': i + 1, **row} for i in range(n)], columns=['candidate', *row])
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = -24, -24, -24
    maps = {'magnitude': np.ones((24, 24, 12), np.float32), 'chi': np.zeros((24, 24, 12), np.float32)}
    looks = {'magnitude': Look('Magnitude', 'arbitrary'), 'chi': Look('χ', 'ppm', window=(-0.1, 0.2))}
    png = plot_candidates(table, maps, affine, looks=looks)
    return Image.open(io.BytesIO(png)).size


def test_a_row_each_and_not_too_many():
    # also where the candidate lies at the wall of the volume, and where there are none
    none, one, two = (pictures(n) for n in (0, 1, 2))
    assert none[0] == one[0]
    assert two[1] > one[1]
    assert pictures(MOST + 3) == pictures(MOST)
