"""Paramagnetic and diamagnetic sources of a digital head, and the relaxation that they cause."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.gre import Protocol, crop_kspace, finer
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.sampling import Volume, pull

PARTS = ('para', 'dia', 'r2', 'r2prime')
"""Channels of `Sources`: susceptibility (ppm) of paramagnetic (positive) and diamagnetic sources (negative);
irreversible and reversible relaxation (1/s)."""
DIA = {
    'white': 0.036,
    'grey': 0.020,
    'Thalamus': 0.032,
    'Dentate': 0.016,
    'GPe': 0.014,
    'GPi': 0.014,
    'SNc': 0.012,
    'SNr': 0.012,
}
"""Size of diamagnetic susceptibility by tissue (ppm); other nuclei have .010. Ridani et al. (2026), MRM,
doi:10.1002/mrm.70468, table of tissues."""
T2 = {
    'white': 0.070,
    'grey': 0.088,
    'csf': 1.584,
    'Caudate': 0.088,
    'GPe': 0.064,
    'GPi': 0.064,
    'Putamen': 0.078,
    'RN': 0.068,
    'Dentate': 0.110,
    'SNc': 0.073,
    'SNr': 0.073,
    'Thalamus': 0.087,
}
"""T2 by tissue at 3 T (s); other nuclei have .080."""


@dataclass(frozen=True)
class Relaxivity:
    """How sources dephase their surroundings.

    Attributes
    ----------
    para, dia : float
        Reversible relaxation by 1 ppm of paramagnetic and of diamagnetic sources at 3 T (1/s/ppm).
    turned : float
        Share of the diamagnetic one that depends on the fibre's angle to B0 as its squared sine.
    varies : float
        Relative standard deviation of both between places, smooth over some 15 mm.
    """

    para: float = 137.0
    dia: float = 137.0
    turned: float = 0.0
    varies: float = 0.1


@dataclass(frozen=True)
class Sources:
    """A head whose R2* follows from its sources, and these sources on the same lattice."""

    head: Head
    volume: Volume

    def sample(self, shape: tuple[int, ...], affine: np.ndarray):
        """Maps of `PARTS` on a scanner grid, by name; veins count as paramagnetic."""
        head = self.head
        channels = range(len(PARTS))
        *values, blood, iron = pull(
            shape, head.pose @ affine, head.warp, self.volume, channels, [0] * len(PARTS), head.veins
        )
        found = dict(zip(PARTS, values, strict=True))
        found['para'] += iron * np.float32(head.vein_gain) - blood * found['para']
        found['dia'] *= 1 - blood
        found['r2'] += blood * (1 / 0.032 - found['r2'])
        found['r2prime'] += blood * (t.TISSUES['blood'].r2star - 1 / 0.032 - found['r2prime'])
        return found

    def measured(self, protocol: Protocol):
        """Maps of `PARTS` with the point spread of a scan, as `simulate` gives its truth."""
        shape, affine = protocol.shape, protocol.affine
        fine, place = finer(shape, affine, protocol.voxel_size)
        brain = self.head.sample(fine, place, ('brain',))['brain']
        inside = np.maximum(crop_kspace(brain, shape), 0.5)
        maps = self.sample(fine, place)
        return {name: crop_kspace(one * brain, shape) / inside for name, one in maps.items()}


def add_sources(
    head: Head, relaxivity: Relaxivity, seed: int, *, texture: float = 0.15, variation: float = 0.15
):
    """Take the susceptibility of a head apart into sources, and make its R2* of their relaxation.

    Diamagnetic susceptibility is that of the tissue (`DIA`), with smooth variation of ``texture``; the rest
    of the susceptibility is paramagnetic. Fluid, and tissue outside the brain, have no sources.

    Parameters
    ----------
    head : Head
    relaxivity : Relaxivity
    seed : int
        Of textures and of the directions of fibres.
    texture : float
        Relative standard deviation of diamagnetic susceptibility within tissue.
    variation : float
        That of it and of R2 by tissue, between persons.
    """
    rng = np.random.default_rng([seed, 8])
    volume = head.tissue
    put = t.channels(volume.data)
    shape = put['chi'].shape

    def smooth(mm: float):
        """Random field of unit variance."""
        coarse = max(int(mm / 2 / volume.spacing), 1)
        few = rng.standard_normal([n // coarse + 3 for n in shape]).astype(np.float32)
        few = ndimage.gaussian_filter(few, mm / (2 * volume.spacing * coarse))
        grown = ndimage.zoom(few, coarse, order=1)[tuple(slice(0, n) for n in shape)]
        return grown / grown.std()

    solid = put['brain'] * (1 - put['csf'])
    names = ('white', 'grey', *t.NUCLEI)
    myelin, rates = (
        dict(zip(names, 1 + variation * row, strict=True)) for row in rng.standard_normal((2, len(names)))
    )
    white = np.minimum(put['white'], solid)
    grey = solid - white
    dia = sum(DIA[name] * myelin[name] * share for name, share in (('white', white), ('grey', grey)))
    slow = sum(rates[name] / T2[name] * share for name, share in (('white', white), ('grey', grey)))
    for n in head.nuclei:
        first = np.round((n.origin - volume.origin) / volume.spacing).astype(int)
        box = tuple(slice(a, a + m) for a, m in zip(first, n.amount.shape, strict=True))
        share = np.minimum(n.amount, solid[box])
        rate = rates[n.region] / T2.get(n.region, 0.080) + 6.0 * (n.chi - t.NUCLEI[n.region].chi)
        rest = np.maximum(solid[box], 1e-6)
        dia[box] += share * (myelin[n.region] * DIA.get(n.region, 0.010) - dia[box] / rest)
        slow[box] += share * (rate - slow[box] / rest)
    dia *= np.maximum(1 + texture * smooth(6.0), 0.2)
    chi = put['chi'] * solid
    least = 0.002 * solid
    para = np.maximum(chi + dia, least)
    dia = para - chi
    sine = np.clip(0.5 + 0.4 * smooth(20.0), 0, 1)
    kernel = relaxivity.dia * (1 - relaxivity.turned + relaxivity.turned * 1.5 * sine * (white > 0.5))
    reversible = relaxivity.para * (1 + relaxivity.varies * smooth(15.0)) * para
    reversible += kernel * (1 + relaxivity.varies * smooth(15.0)) * dia
    slow += put['brain'] * put['csf'] / T2['csf']
    parts = np.stack([para, -dia, slow, np.maximum(reversible, 0)], -1).astype(np.float32)
    data = volume.data.copy()
    inside = put['brain']
    rate = t.channels(data)['r2star']
    rate += inside * (parts[..., 2] + parts[..., 3] - rate)
    return Sources(replace(head, tissue=replace(volume, data=data)), replace(volume, data=parts))
