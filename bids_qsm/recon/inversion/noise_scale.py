"""Padding and noise scale that methods of dipole inversion share."""

import numpy as np

from bids_qsm.recon.arrays import Array, namespace, to_numpy

PADDING = 16.0
"""Zeros around the mask (mm), against the periodic copies of the dipole."""


def typical_noise(noise: Array, field: Array, mask: Array):
    """Median noise (units of ``field``) in the mask; for noise-free data .001 of the field's deviation."""
    mask = to_numpy(mask)
    typical = float(np.median(to_numpy(noise)[mask]))
    return typical if typical > 0 else 1e-3 * float(to_numpy(field)[mask].std())


def relative_noise(noise: Array, field: Array, mask: Array):
    """Median noise over the field's standard deviation in the mask, 0 to 1."""
    spread = float(to_numpy(field)[to_numpy(mask)].std())
    return min(typical_noise(noise, field, mask) / spread, 1.0) if spread > 0 else 1.0


def certainty(noise: Array, inside: Array, typical: float):
    """Squared weight of each voxel: ``typical`` noise over its noise, at most 1; 0 outside, also for NaN."""
    xp = namespace(noise)
    share = typical / xp.clip(noise, typical, None)
    return xp.where(inside, share * share, xp.zeros_like(share))
