"""Paramagnetic and diamagnetic sources of a digital head, and the relaxation that they cause."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from bids_qsm.anatomy.fibres import DIAGONAL
from bids_qsm.phantom import tissue as t
from bids_qsm.phantom.bundles import Bundles, diffusion, draw_bundles
from bids_qsm.phantom.gre import Protocol, crop_kspace, finer
from bids_qsm.phantom.head import Head
from bids_qsm.phantom.lesions import Lesion
from bids_qsm.phantom.sampling import Volume, near, pull
from bids_qsm.recon.orientations.tensor import turned

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
R2_TURNED = 0.06
"""Share of R2 of white matter that depends on the fibre's angle to B0; an assumption."""
FOREIGN = {'microbleed': 1 / 0.032, 'calcification': 20.0}
"""R2 (1/s) of what displaces tissue, by the kind of lesion; that of calcium is an assumption."""


@dataclass(frozen=True)
class Relaxivity:
    """How sources dephase their surroundings.

    Attributes
    ----------
    para, dia : float
        Reversible relaxation by 1 ppm of paramagnetic and of diamagnetic sources at 3 T (1/s/ppm).
    turned : float
        Share of the diamagnetic one that depends on the fibre's angle to B0.
    steep : float
        Share of that which goes with the fourth power of the sine, as water in the sheath of a hollow
        cylinder dephases from that outside; the rest goes with its square. It needs fibres.
    anisotropy : float
        By how much (ppm) white matter has more susceptibility along fibres than across. It needs fibres.
    varies : float
        Relative standard deviation of both between places, smooth over some 15 mm.
    """

    para: float = 137.0
    dia: float = 137.0
    turned: float = 0.0
    steep: float = 0.4
    anisotropy: float = 0.0
    varies: float = 0.1


@dataclass(frozen=True)
class Sources:
    """A head whose R2* follows from its sources, and these sources and fibres on the same lattice."""

    head: Head
    volume: Volume
    bundles: Bundles | None = None

    def dyads_of_each(self, shape: tuple[int, ...], affine: np.ndarray) -> list[np.ndarray]:
        """v v' of each bundle of a grid times its share of the voxel (6, ...).

        Components are in the order of COMPONENTS, along the axes of the scanner.
        """
        if self.bundles is None:
            raise ValueError('these sources have no fibres')
        head = self.head
        # the pose scales and shears too, which hardly turns
        left, _, right = np.linalg.svd(np.linalg.inv(head.pose[:3, :3]))
        found = []
        for n in range(len(self.bundles.weights)):
            volume = self.bundles.volume(self.volume, n)
            dyads = pull(shape, head.pose @ affine, head.warp, volume, range(6), [0] * 6, head.veins)[:6]
            found.append(turned(np.stack(dyads), left @ right))
        return found

    def dyads(self, shape: tuple[int, ...], affine: np.ndarray):
        """Their sum (6, ...), and the share of white matter."""
        total = np.sum(self.dyads_of_each(shape, affine), 0)
        return total, total[DIAGONAL].sum(0)

    def diffusion(self, shape: tuple[int, ...], affine: np.ndarray, *, noise: float = 0.02, seed: int = 0):
        """FA, first eigenvector (in axes of the scanner) and tensor of a grid, see `bundles.diffusion`."""
        return diffusion(*self.dyads(shape, affine), noise=noise, seed=seed)

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
    head: Head,
    relaxivity: Relaxivity,
    seed: int,
    *,
    texture: float = 0.15,
    variation: float = 0.15,
    with_fibres: bool = False,
):
    """Take the susceptibility of a head apart into sources, and make its R2* of their relaxation.

    Diamagnetic susceptibility is that of the tissue (`DIA`), with smooth variation of ``texture``; the rest
    of the susceptibility is paramagnetic. Fluid, and tissue outside the brain, have no sources. Blood of a
    bleed and calcium displace the tissue, and its sources with it.

    With fibres, the susceptibility of white matter and its relaxation depend on their angle to B0 in the pose
    of the head. Susceptibility is that along B0: the other components of the tensor are left out.

    Parameters
    ----------
    head : Head
        In its final pose.
    relaxivity : Relaxivity
    seed : int
        Of textures and of the directions of fibres.
    texture : float
        Relative standard deviation of diamagnetic susceptibility within tissue.
    variation : float
        That of it and of R2 by tissue, between persons.
    with_fibres : bool
        Draw fibres (`bundles.draw_bundles`); else angles vary smoothly at random.
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
    foreign, held, its_slow = _foreign(volume, head.lesions)
    chi = put['chi'] * solid - foreign
    least = 0.002 * solid
    para = np.maximum(chi + dia, least)
    dia = para - chi
    turned = relaxivity.turned
    if with_fibres:
        fibres = draw_bundles(volume, white, seed)
        along, relaxes, decays = (np.zeros(shape, np.float32) for _ in range(3))
        cosines = fibres.cosines(head.pose)
        square, fourth = ((fibres.weights * (1 - cosines) ** power).sum(0) for power in (1, 2))
        here, steep = fibres.where, relaxivity.steep
        share = white[here] / np.maximum(solid[here], 1e-6)
        along[here] = share * (2 / 3 - square)
        relaxes[here] = share * (1.5 * (1 - steep) * square + 1.875 * steep * fourth - 1)
        decays[here] = share * (1.5 * square - 1)
        change = np.minimum(relaxivity.anisotropy * along * dia / DIA['white'], dia)
        dia, chi = dia - change, chi + change
        kernel = relaxivity.dia * (1 + turned * relaxes)
        slow *= 1 + R2_TURNED * decays
    else:
        sine = np.clip(0.5 + 0.4 * smooth(20.0), 0, 1)
        kernel = relaxivity.dia * (1 - turned + turned * 1.5 * sine * (white > 0.5))
    para, dia, slow = para * (1 - held), dia * (1 - held), slow * (1 - held) + its_slow
    para += np.maximum(foreign, 0)
    dia += np.maximum(-foreign, 0)
    reversible = relaxivity.para * (1 + relaxivity.varies * smooth(15.0)) * para
    reversible += kernel * (1 + relaxivity.varies * smooth(15.0)) * dia
    slow += put['brain'] * put['csf'] / T2['csf']
    parts = np.stack([para, -dia, slow, np.maximum(reversible, 0)], -1).astype(np.float32)
    data = volume.data.copy()
    inside = put['brain']
    drawn = t.channels(data)
    drawn['r2star'] += inside * (parts[..., 2] + parts[..., 3] - drawn['r2star'])
    drawn['chi'] += para - dia - put['chi'] * solid
    return Sources(
        replace(head, tissue=replace(volume, data=data)),
        replace(volume, data=parts),
        fibres if with_fibres else None,
    )


def _foreign(volume: Volume, lesions: Sequence[Lesion]):
    """Susceptibility of blood and calcium in lesions (ppm), their share, and their R2 (1/s) times it."""
    shape = volume.data.shape[:3]
    chi, held, slow = (np.zeros(shape, np.float32) for _ in range(3))
    for lesion in lesions:
        if lesion.kind in FOREIGN:
            box, points = near(volume, lesion.centre, 3 * [lesion.radius + 3])
            share = lesion.filled(points, volume.spacing)
            chi[box] += share * np.float32(lesion.chi)
            held[box] = np.maximum(held[box], np.minimum(share, 1))
            slow[box] = np.maximum(slow[box], np.minimum(share, 1) * np.float32(FOREIGN[lesion.kind]))
    return chi, held, slow
