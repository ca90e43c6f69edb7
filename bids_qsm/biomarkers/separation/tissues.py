"""What is known of the sources of each tissue before a scan."""

from typing import NamedTuple

import numpy as np


class Tissue(NamedTuple):
    """Mean, its uncertainty, and standard deviation within the tissue, of a person.

    Attributes
    ----------
    para, dia : tuple of float
        Paramagnetic and diamagnetic susceptibility, both as positive numbers (ppm).
    rate : tuple of float
        Irreversible relaxation R2 at 3 T (1/s).
    """

    para: tuple[float, float, float]
    dia: tuple[float, float, float]
    rate: tuple[float, float, float]


TISSUES = {
    'white matter': Tissue((0.014, 0.008, 0.010), (0.034, 0.008, 0.010), (14.0, 1.5, 1.5)),
    'cortex': Tissue((0.034, 0.012, 0.015), (0.020, 0.006, 0.007), (11.5, 1.5, 1.5)),
    'deep grey matter': Tissue((0.070, 0.040, 0.050), (0.012, 0.004, 0.006), (13.5, 1.5, 2.0)),
    'thalamus': Tissue((0.040, 0.012, 0.015), (0.030, 0.006, 0.008), (12.0, 1.5, 1.5)),
    'fluid': Tissue((0.001, 0.0, 0.004), (0.001, 0.0, 0.003), (0.7, 0.3, 0.7)),
}
"""Means: Min et al. (2024), NMR Biomed, doi:10.1002/nbm.5226 (106 adults), and Ridani et al. (2026), MRM,
doi:10.1002/mrm.70468. Spreads are our assumptions, wide enough for methods and phantoms to differ."""
FLUID = [*TISSUES].index('fluid')
FLUID_CHI = 0.020
"""Spread of the susceptibility of fluid about that of tissue water (ppm): it has no sources."""
FA = {
    'white matter': (0.42, 0.25),
    'cortex': (0.17, 0.15),
    'deep grey matter': (0.22, 0.20),
    'thalamus': (0.25, 0.20),
    'fluid': (0.12, 0.12),
}
"""Mean and spread of fractional anisotropy by tissue: assumptions, and wide ones, as noise raises it and
voxels of diffusion are large."""
ZONES = {
    'elsewhere': (0.30, 0.48, 0.02, 0.02, 0.15, 0.03),
    'white matter': (0.90, 0.04, 0.01, 0.01, 0.01, 0.03),
    'nuclei': (0.10, 0.05, 0.50, 0.30, 0.02, 0.03),
}
"""Expected shares of the tissues, and last of what is none of them (vessels, lesions), by where a voxel
is."""


BASE_R2 = 9.0
"""Part of R2 of tissue (1/s) that does not depend on the field strength, as between 3 and 7 T; the rest is
proportional to it ("Dependence of brain-tissue R2 on MRI field strength", GESSE at both)."""


def table(column: int, scale: float = 1.0):
    """Array (tissue, 3) of `TISSUES`: 0 paramagnetic, 1 diamagnetic, 2 R2 at ``scale`` times 3 T.

    >>> table(2, 7 / 3)[0].round(1).tolist()
    [20.7, 3.5, 3.5]
    """
    found = np.array([one[column] for one in TISSUES.values()])
    if column == 2:
        found[:FLUID, 0] -= BASE_R2
        found[:FLUID] *= scale
        found[:FLUID, 0] += BASE_R2
    return found


def zones(mask: np.ndarray, white: np.ndarray | None, nuclei: np.ndarray):
    """Index into `ZONES` of each voxel (uint8): labels of deep white matter and of nuclei, bool."""
    found = np.zeros(mask.shape, np.uint8)
    if white is not None:
        found[white] = 1
    found[nuclei] = 2
    return found
