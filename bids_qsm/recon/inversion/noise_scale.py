"""What the methods of dipole inversion share: the room around the mask and the level of the noise."""

import numpy as np

from bids_qsm.recon.arrays import Array, namespace, to_numpy

PADDING = 16.0
"""Zeros around the mask (mm) that keep the dipole's periodic copies away."""


def typical_noise(noise: Array, field: Array, mask: Array):
    """Median noise (units of ``field``) in the mask; of noise-free data .001 of the field's spread."""
    mask = to_numpy(mask)
    typical = float(np.median(to_numpy(noise)[mask]))
    return typical if typical > 0 else 1e-3 * float(to_numpy(field)[mask].std())


def relative_noise(noise: Array, field: Array, mask: Array):
    """Median noise over the field's standard deviation in the mask, 0 to 1."""
    spread = float(to_numpy(field)[to_numpy(mask)].std())
    return min(typical_noise(noise, field, mask) / spread, 1.0) if spread > 0 else 1.0


def certainty(noise: Array, inside: Array, typical: float):
    """Squared weight of each voxel: ``typical`` noise over its own, at most 1; 0 outside, even of NaN."""
    xp = namespace(noise)
    share = typical / xp.clip(noise, typical, None)
    return xp.where(inside, share * share, xp.zeros_like(share))
