"""Removal of the field whose sources lie outside the mask: total field to local field."""

from bids_qsm.recon.background.lbv import lbv
from bids_qsm.recon.background.levelled import levelled
from bids_qsm.recon.background.pdf import pdf
from bids_qsm.recon.background.spheres import ismv, resharp, sharp
from bids_qsm.recon.background.vsharp import vsharp

BACKGROUND = {
    'levelled': levelled,
    'vsharp': vsharp,
    'sharp': sharp,
    'resharp': resharp,
    'ismv': ismv,
    'pdf': pdf,
    'lbv': lbv,
}
