"""Removal of the field whose sources lie outside the mask: total field to local field.

Data of the methods: ``field``, the total field (ppm, float32); ``mask`` (bool), where it can be trusted;
``noise``, its standard deviation (ppm); ``r2star`` (1/s, or None). Each method returns the local field (ppm,
float32), the mask where it is given, and the noise of the local field where that is another; the local field
is 0 outside that mask.
"""

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
