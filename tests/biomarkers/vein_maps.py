"""Maps of a small head with known veins."""

import numpy as np
from scipy import ndimage

from bids_qsm.phantom.vessels import Segment, draw
from bids_qsm.recon.grid import Grid

SHAPE = (44, 40, 36)
AFFINE = np.array([[0.98, 0.10, 0, -20], [-0.10, 0.98, 0.11, -18], [0.01, -0.11, 1.19, -20], [0, 0, 0, 1.0]])
BLOOD = 0.45


def line(start, stop, diameter):
    """A straight vein between two points (scanner, mm)."""
    points = np.linspace(start, stop, 41)
    return Segment(points, np.full(len(points), diameter / 2), 0.65, BLOOD)


TREE = (
    line((-14, -12, -10), (14, 6, 8), 2.6),
    line((0, -3, -1), (-12, 12, 10), 1.4),
    line((14, -12, -8), (8, -10, 12), 1.2),
    line((-16, 2, -14), (-14, -8, 10), 1.0),
)


def make_maps(affine=AFFINE, shape=SHAPE, tree=TREE, seed=0):
    """chi, swi, r2star, mask, dseg and share of veins on a grid; a nucleus lies aside."""
    rng = np.random.default_rng(seed)
    share, _ = draw(tree, shape, affine)
    index = np.stack(np.indices(shape), -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    mask = (points**2 / np.array([21, 19, 20]) ** 2).sum(-1) < 1
    nucleus = ((points - (2, 9, -9)) ** 2 / np.array([4, 6, 3.5]) ** 2).sum(-1) < 1
    soft = ndimage.gaussian_filter(nucleus.astype(float), 0.5)

    def noise(size):
        return size * ndimage.gaussian_filter(rng.standard_normal(shape), 0.4)

    blurred = ndimage.gaussian_filter(share, 0.45)
    chi = BLOOD * blurred + 0.12 * soft + noise(0.02)
    r2star = 18 + 35 * blurred + 15 * soft + noise(3)
    swi = 1 - 0.6 * blurred - 0.1 * soft + noise(0.08)
    chi, swi, r2star = (np.where(mask, data, 0).astype(np.float32) for data in (chi, swi, r2star))
    return {
        'chi': chi,
        'swi': swi,
        'r2star': r2star,
        'mask': mask,
        'dseg': nucleus.astype(np.int32),
        'share': share * mask,
        'affine': affine,
        'grid': Grid.from_affine(shape, affine),
    }
