"""Susceptibility-weighted imaging: magnitude darkened in veins, by phase or susceptibility."""

from bids_qsm.recon.swi.clear import clearswi
from bids_qsm.recon.swi.highpass import highpass
from bids_qsm.recon.swi.projection import minip
from bids_qsm.recon.swi.true import trueswi

SWI = {'clearswi': clearswi, 'highpass': highpass, 'trueswi': trueswi}

__all__ = ['SWI', 'clearswi', 'highpass', 'minip', 'trueswi']
