"""Blood of a digital head: its susceptibility, its relaxation and the oxygen it carries.

The constants of the truth stand here, apart from those that the solvers assume.
"""

from dataclasses import dataclass

import numpy as np

DEOXYGENATED = 4 * np.pi * 0.27
"""Susceptibility (ppm, SI) of deoxygenated against oxygenated red cells: 0.27 ppm (cgs) by Spees et al.
(2001), Magn Reson Med 45:533. doi:10.1002/mrm.1072"""
OXYGEN_BINDING = 1.34
"""Oxygen (ml) that 1 g of haemoglobin binds."""
HAEMOGLOBIN = 33.5
"""Haemoglobin (g/dl) of red cells."""
MOLAR = 0.446
"""Oxygen (umol/ml of blood) in 1 ml/dl."""


def blood_chi(oxygenation: float | np.ndarray, hematocrit: float):
    r"""Susceptibility (ppm) of blood relative to water, by its oxygenation and hematocrit (0 .. 1).

    .. math:: \chi = Hct \cdot 4 \pi \cdot 0.27 \cdot (1 - Y)

    >>> round(blood_chi(0.65, 0.42), 3)
    0.499
    """
    return hematocrit * DEOXYGENATED * (1 - oxygenation)


@dataclass(frozen=True)
class Blood:
    """Blood of a person: hematocrit, arterial oxygenation, and venous oxygenation where veins begin.

    ``deep`` is that of the veins of white matter and deep nuclei, ``cortical`` that of the others; ``spread``
    is its standard deviation between the smallest veins. All are shares (0 .. 1).
    """

    hematocrit: float = 0.42
    arterial: float = 0.98
    deep: float = 0.65
    cortical: float = 0.60
    spread: float = 0.01

    @property
    def oxygen_content(self):
        """Oxygen (umol/ml) bound in arterial blood.

        >>> round(Blood(hematocrit=14 / 33.5).oxygen_content, 2)
        8.2
        """
        return MOLAR * OXYGEN_BINDING * HAEMOGLOBIN * self.hematocrit * self.arterial


def draw_blood(rng: np.random.Generator):
    """Blood of a random healthy person."""
    deep = rng.normal(0.65, 0.02)
    return Blood(
        hematocrit=float(np.clip(rng.normal(0.42, 0.025), 0.34, 0.50)),
        arterial=float(np.clip(rng.normal(0.98, 0.005), 0.96, 0.995)),
        deep=float(deep),
        cortical=float(deep - 0.05 + rng.normal(0, 0.01)),
    )
