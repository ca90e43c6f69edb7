"""A few nuclei in a small box of template space, and people in whom each lies elsewhere."""

import numpy as np
import pandas as pd
from scipy import ndimage

from bids_qsm.anatomy.nucleus_names import body_of

SHAPE = (66, 54, 46)
BOX = ((-32.0, -30.0, -26.0), (33.0, 23.0, 19.0))
AFFINE = np.eye(4)
AFFINE[:3, 3] = BOX[0]
PARTS = {
    'SNc': ((-9.5, -14.5, -13), (2.5, 4, 2.5)),
    'SNr': ((-11, -10, -12), (3, 3.5, 3)),
    'STN': ((-11, -12, -5.5), (4, 3, 2.5)),
    'GPe': ((-20, 0, 0), (3, 5, 5)),
}
CHI = {'SNc': 0.11, 'SNr': 0.11, 'STN': 0.11, 'GPe': 0.13}
LABELS = pd.DataFrame(
    [
        (1 + 2 * n + side, f'{hemisphere}_{region}', hemisphere, region)
        for n, region in enumerate(PARTS)
        for side, hemisphere in enumerate('LR')
    ],
    columns=['index', 'name', 'hemisphere', 'region'],
)
SHIFTS = {
    ('SN', 'L'): (0.5, -2.0, -1.0),
    ('SN', 'R'): (1.5, 1.0, 0.0),
    ('STN', 'L'): (-1.5, 1.5, 1.0),
    ('STN', 'R'): (0.0, -1.0, 2.0),
    ('GP', 'L'): (2.0, 1.0, -1.5),
    ('GP', 'R'): (0.0, 0.0, 0.0),
}
STAY = dict.fromkeys(SHIFTS, (0.0, 0.0, 0.0))


def amounts(shifts):
    """Share of every voxel in each part, by label."""
    axes = (a + np.arange(n) for a, n in zip(BOX[0], SHAPE, strict=True))
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
    found = {}
    for row in LABELS.itertuples():
        centre, radii = (np.array(v, float) for v in PARTS[row.region])
        centre = centre * (1 if row.hemisphere == 'L' else -1, 1, 1)
        centre = centre + shifts[body_of(row.region), row.hemisphere]
        away = np.sqrt((((points - centre) / radii) ** 2).sum(-1))
        found[row.index] = np.clip(0.5 + (1 - away) * radii.mean(), 0, 1)
    return found


def dseg(shifts):
    """Most likely label of every voxel."""
    shares = amounts(shifts)
    stack = np.stack([np.full(SHAPE, 0.5), *shares.values()])
    return np.array([0, *shares])[stack.argmax(0)].astype(np.int16)


def susceptibility(shifts, *, gain=1.0, noise=0.0, zero=0.0, seed=0):
    """Map (ppm) of one whose nuclei are shifted, in tissue of -.02 ppm, with noise that has some breadth."""
    chi = np.full(SHAPE, -0.02)
    for index, share in amounts(shifts).items():
        region = LABELS.set_index('index').region[index]
        chi += share * np.clip(gain * CHI[region] - chi, 0, None)
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 0.7)
    return (chi + zero + noise * grain / grain.std()).astype(np.float32)
