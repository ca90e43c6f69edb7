"""Pallida with the eye of the tiger (a core without iron in a ring of iron), and what looks like it."""

from dataclasses import replace

import numpy as np

from bids_qsm.anatomy.nucleus_names import body_of
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.families import FAMILIES, Family, draw_solids
from bids_qsm.phantom.nuclei_bed import Lens, NucleiBed

KINDS = ('tiger', 'normal', 'high', 'calcified', 'streak', 'little')
"""Core in a ring; usual iron; iron all over; iron with a calcified core; iron with a lamina that lacks it;
little iron, as in a child."""
_IRON = (2.2, 3.6)
"""Least and most factor on the susceptibility of a pallidum with iron: about threefold in Dusek et al.
(2014), Mov Disord Clin Pract, 7-Tesla MRI in PANK2 mutation carriers."""
_LITTLE = (0.05, 0.5)
_CALCIUM = -0.3


def draw_pallidum(seed: int, kind: str, *, family: str | Family = 'surface') -> NucleiBed:
    """Pallida, putamina and thalami of a person, alike on both sides but for chance.

    A core lies in the anteromedial part: 4 to 7 mm long, 3 to 5 mm wide, with the susceptibility and R2* of
    tissue with little iron. A calcified core is as large.

    Parameters
    ----------
    seed : int
    kind : str
        One of KINDS.
    family : str or Family
        Of the shapes and poses of the nuclei.
    """
    rng = np.random.default_rng([seed, 32])
    solids = draw_solids(FAMILIES[family] if isinstance(family, str) else family, rng)
    solids = tuple(s for s in solids if body_of(s.region) in ('GP', 'Putamen'))
    usual = t.NUCLEI['GPi']
    if kind == 'normal':
        factor = 1 + 0.1 * rng.standard_normal()
    else:
        factor = rng.uniform(*(_LITTLE if kind == 'little' else _IRON))
    chi, relaxing = usual.chi * factor, usual.r2star * (0.5 + 0.5 * factor)
    levels, lenses = {}, []
    for side in 'LR':
        levels['GP', side] = factor * (1 + 0.03 * rng.standard_normal())
        inner = next(s for s in solids if s.region == 'GPi' and s.hemisphere == side)
        outer = [s.centre for s in solids if s.region == 'GPe' and s.hemisphere == side]
        middle = np.mean(outer, 0)
        # between the parts, to the front: the anteromedial pallidum
        centre = 0.75 * inner.centre + 0.25 * middle + rng.uniform(-0.7, 0.7, 3) + (0, 1.0, 1.0)
        across = middle - inner.centre
        across /= np.linalg.norm(across)
        ahead = np.cross((0, 0, 1.0), across)
        ahead /= np.linalg.norm(ahead)
        axes = np.stack([across, np.cross(across, ahead), ahead], 1)
        size = (*rng.uniform(3, 4, 1), *rng.uniform(3, 5, 1), *rng.uniform(4, 7, 1))
        lens = Lens(tuple(map(float, centre)), axes, tuple(map(float, size)))
        if kind == 'tiger':
            left = rng.uniform(0.2, 0.4)
            lenses.append(replace(lens, chi=-chi * (1 - left), r2star=-(relaxing - 15.0)))
        elif kind == 'calcified':
            lenses.append(replace(lens, chi=_CALCIUM - chi, r2star=60.0))
        elif kind == 'streak':
            between = tuple(map(float, (inner.centre + middle) / 2))
            plate = replace(lens, centre=between, size=(1.5, 16.0, 18.0))
            lenses.append(replace(plate, chi=-0.6 * chi, r2star=-0.4 * relaxing))
    return NucleiBed((), texture=0.004, seed=seed, solids=solids, lenses=tuple(lenses), levels=levels)
