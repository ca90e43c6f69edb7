"""Tissue properties of the digital head: susceptibility, relaxation and proton density.

Susceptibility is in ppm relative to tissue water (values in common use in QSM phantoms, e.g. Marques et al.
(2021), MRM 86:526, doi:10.1002/mrm.28716); R2* (1/s) and T1 (s) are rounded values of 3 T.
"""

from typing import NamedTuple

import numpy as np

from bids_qsm.phantom.blood import blood_chi

PAINTED = ('chi', 'r2star', 'density', 'r1', 'fat', 't1w')
"""Quantities of each tissue."""
CHANNELS = (*PAINTED, 'brain', 'csf', 'white')
"""Channels of the volume that a head is drawn into: the quantities, then shares of a voxel."""


class Tissue(NamedTuple):
    """Susceptibility (ppm), R2* (1/s at 3 T), proton density (of water), T1 (s at 3 T), MPRAGE brightness."""

    chi: float
    r2star: float
    density: float
    t1: float
    t1w: float
    fat: float = 0.0

    @property
    def r1(self):
        """Longitudinal relaxation rate (1/s at 3 T)."""
        return 1 / self.t1


TISSUES = {
    'air': Tissue(9.4, 20.0, 0.0, 1.0, 0.0),
    'bone': Tissue(-2.0, 400.0, 0.08, 0.4, 0.08),
    'marrow': Tissue(-0.6, 120.0, 0.45, 0.4, 0.55, fat=0.5),
    'fat': Tissue(0.65, 45.0, 0.85, 0.37, 1.10, fat=1.0),
    'muscle': Tissue(0.0, 32.0, 0.75, 1.4, 0.55),
    'skin': Tissue(0.0, 40.0, 0.65, 1.0, 0.70),
    'vitreous': Tissue(0.02, 2.0, 1.0, 4.0, 0.22),
    'csf': Tissue(0.019, 1.5, 1.0, 4.2, 0.28),
    'grey': Tissue(0.020, 16.5, 0.82, 1.40, 0.65),
    'white': Tissue(-0.030, 20.5, 0.70, 0.83, 0.875),
    'blood': Tissue(blood_chi(0.62, 0.42), 48.0, 0.85, 1.65, 0.40),
    # assumed: collagen with small veins
    'dura': Tissue(0.06, 45.0, 0.60, 1.10, 0.50),
    'calcification': Tissue(-0.50, 90.0, 0.45, 1.0, 0.50),
}

NUCLEI = {
    'Caudate': Tissue(0.044, 21.0, 0.81, 1.27, 0.71),
    'Putamen': Tissue(0.038, 24.0, 0.80, 1.17, 0.74),
    'GPe': Tissue(0.131, 37.0, 0.72, 0.93, 0.78),
    'GPi': Tissue(0.131, 35.0, 0.72, 0.92, 0.78),
    'RN': Tissue(0.100, 33.0, 0.72, 0.98, 0.78),
    'SNc': Tissue(0.111, 32.0, 0.74, 1.05, 0.74),
    'SNr': Tissue(0.111, 37.0, 0.74, 1.02, 0.73),
    'STN': Tissue(0.111, 35.0, 0.74, 1.00, 0.80),
    'Thalamus': Tissue(0.020, 20.5, 0.77, 1.10, 0.78),
    'Dentate': Tissue(0.152, 33.0, 0.74, 1.05, 0.80),
    'Nucleus Accumbens': Tissue(0.030, 19.0, 0.82, 1.30, 0.70),
    'Extended Amygdala': Tissue(0.015, 18.0, 0.82, 1.30, 0.70),
    'Parabrachial Pigmented': Tissue(0.060, 26.0, 0.76, 1.10, 0.74),
    'Ventral Tegmental Area': Tissue(0.050, 25.0, 0.76, 1.10, 0.74),
    'Ventral Pallidum': Tissue(0.080, 29.0, 0.76, 1.05, 0.74),
    'Habenular Nucleus': Tissue(0.020, 19.0, 0.80, 1.25, 0.70),
    'Hypothalamus': Tissue(0.005, 18.0, 0.82, 1.30, 0.68),
    'Mammillary Nucleus': Tissue(0.030, 20.0, 0.80, 1.20, 0.72),
}
"""By the `region` of the built-in atlas."""

COMPOSITE = {'SN': ('SNc', 'SNr'), 'GP': ('GPe', 'GPi')}


def channels(data: np.ndarray):
    """Views of a volume's channels (the last axis) by name."""
    return dict(zip(CHANNELS, np.moveaxis(data, -1, 0), strict=True))


def scale_r2star(r2star: float | np.ndarray, field_strength: float):
    """R2* (1/s) at another field strength (T): mostly linear in it, as susceptibility effects are."""
    return r2star * (0.3 + 0.7 * field_strength / 3.0)


def scale_r1(r1: float | np.ndarray, field_strength: float):
    """R1 (1/s) at another field strength (T): T1 of tissue increases with about its cube root."""
    return r1 * (3.0 / field_strength) ** (1 / 3)


def brain_r1(brightness: np.ndarray):
    """R1 (1/s, 3 T) of brain by the template's T1-weighted brightness, from CSF to white matter."""
    known = [TISSUES[t] for t in ('csf', 'grey', 'white')]
    return np.interp(brightness, [t.t1w for t in known], [1 / t.t1 for t in known]).astype(np.float32)
