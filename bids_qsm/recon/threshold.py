"""The threshold between two classes of values."""

import numpy as np
from dipy.segment.threshold import otsu as lower_edge

from bids_qsm.recon.arrays import Array


def otsu(values: Array, *, bins: int = 256) -> float:
    """Threshold between the two classes of largest between-class variance [1]_.

    DIPY returns the lower edge of the last bin of the lower class, which would move 1 % of the voxels of a
    quality map to the upper class; the classes meet at its upper edge. Of a gap between them, where every
    threshold separates equally well, the middle is taken.

    References
    ----------
    .. [1] Otsu (1979), IEEE Trans SMC 9:62. doi:10.1109/TSMC.1979.4310076

    >>> otsu(np.r_[np.full(9, 1.0), np.full(5, 4.0)])
    2.5
    """
    if np.ptp(values) == 0:
        return float(np.ravel(values)[0])
    counts, edges = np.histogram(values, bins)
    split = np.searchsorted(edges, lower_edge(values, nbins=bins), side='right')
    last_below, first_above = np.flatnonzero(counts[:split])[-1], split + np.flatnonzero(counts[split:])[0]
    return float((edges[last_below + 1] + edges[first_above]) / 2)
