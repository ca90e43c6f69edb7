"""Midbrain and pallidum of the atlas with lenses in them, drawn on the grid of the maps, with noise."""

from functools import cache

import numpy as np

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.phantom.nigrosome import lens_in
from bids_qsm.phantom.nuclei_bed import Lens, NucleiBed, labels_of
from bids_qsm.recon.grid import Grid


@cache
def solids(*bodies):
    return tuple(s for s in atlas.shapes() if body_of(s.region) in bodies)


def grid_around(centre, fov, voxel):
    shape = tuple(round(f / v) for f, v in zip(fov, voxel, strict=True))
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = np.array(centre) - np.array(voxel) * (np.array(shape) - 1) / 2
    return shape, affine


def drawn(bed, shape, affine, noise=0.004, seed=0):
    """chi, R2*, labels, their table, mask, grid, affine."""
    put = bed.paint(shape, affine)
    rng = np.random.default_rng(seed)
    chi = (put['chi'] + noise * rng.standard_normal(shape)).astype(np.float32)
    dseg, labels = labels_of(bed, shape, affine)
    grid = Grid.from_affine(shape, affine)
    return chi, put['r2star'], dseg, labels, np.ones(shape, bool), grid, affine


@cache
def midbrain(lost='L', voxel=(0.5, 0.5, 1.0)):
    """A midbrain whose nigrosome is lost on one side."""
    found = solids('SN', 'RN')
    rng = np.random.default_rng(4)
    lenses = tuple(lens_in(found, side, rng) for side in 'LR' if side != lost)
    bed = NucleiBed((), solids=found, lenses=lenses, seed=3)
    return drawn(bed, *grid_around((0, -18, -13), (34, 30, 24), voxel))


@cache
def pallidum(kind='tiger'):
    """A pallidum with iron, and a core on the left that is without iron, of calcium, or not there."""
    factor, chi, r2star = 3.0, {'tiger': -0.3, 'calcified': -0.7}.get(kind), {'tiger': -40.0}.get(kind, 60.0)
    core = Lens((-18.0, -4.0, -3.0), np.eye(3), (4.0, 4.5, 5.0), chi or 0.0, r2star)
    levels = {('GP', side): factor for side in 'LR'}
    lenses = (core,) if chi else ()
    bed = NucleiBed((), solids=solids('GP'), lenses=lenses, levels=levels, seed=3)
    return drawn(bed, *grid_around((0, -2, -2), (66, 40, 30), (1.0, 1.0, 1.0)))
