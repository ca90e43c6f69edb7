"""Dipole inversion: local field to susceptibility.

Data of the methods: ``field``, the local field (ppm, float32), or ``total``, the total field of one-step
methods; ``mask`` (bool), where it is given; ``noise``, its standard deviation (ppm); ``magnitude`` (any
units); ``radians_per_ppm``, the phase (rad) of 1 ppm at the effective echo time; ``r2star`` (1/s). Each
method returns susceptibility (ppm, float32), 0 outside the mask.
"""

from bids_qsm.recon.inversion.direct import l2, tkd, tsvd
from bids_qsm.recon.inversion.fansi import nltv
from bids_qsm.recon.inversion.harmonic import whnltv
from bids_qsm.recon.inversion.ilsqr import ilsqr
from bids_qsm.recon.inversion.learned import learned
from bids_qsm.recon.inversion.medi import medi, medi0
from bids_qsm.recon.inversion.ndi import ndi
from bids_qsm.recon.inversion.robust import hdqsm, l1qsm
from bids_qsm.recon.inversion.rts import rts
from bids_qsm.recon.inversion.tgv import tgv
from bids_qsm.recon.inversion.tikhonov import tikhonov
from bids_qsm.recon.inversion.tv import tv

INVERSION = {
    'whnltv': whnltv,
    'learned': learned,
    'tv': tv,
    'tkd': tkd,
    'nltv': nltv,
    'ndi': ndi,
    'l1qsm': l1qsm,
    'hdqsm': hdqsm,
    'tsvd': tsvd,
    'l2': l2,
    'tikhonov': tikhonov,
    'rts': rts,
    'ilsqr': ilsqr,
    'medi': medi,
    'medi0': medi0,
    'tgv': tgv,
}
