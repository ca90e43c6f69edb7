"""Masks from the magnitude, the quality of the phase, and the brain."""

from bids_qsm.recon.masking.deform import bet
from bids_qsm.recon.masking.quality import brain_mask, combined, hdbet, magnitude_mask, quality_mask
from bids_qsm.recon.masking.residual import refine
from bids_qsm.recon.masking.support import support, widen
from bids_qsm.recon.masking.twopass import merge_two_pass, strict, two_pass

MASK = {
    'combined': combined,
    'bet': bet,
    'hdbet': hdbet,
    'two_pass': two_pass,
    'brain': brain_mask,
    'quality': quality_mask,
    'magnitude': magnitude_mask,
}

__all__ = [
    'MASK',
    'bet',
    'brain_mask',
    'combined',
    'hdbet',
    'magnitude_mask',
    'merge_two_pass',
    'quality_mask',
    'refine',
    'strict',
    'support',
    'two_pass',
    'widen',
]
