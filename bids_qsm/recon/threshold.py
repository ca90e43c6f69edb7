"""The threshold that parts two classes of values."""

import numpy as np


def otsu(values, *, bins: int = 256):
    """Threshold that parts ``values`` into the two classes of largest between-class variance [1]_.

    Over a gap without values every threshold serves as well; the middle of the gap is taken.

    References
    ----------
    .. [1] Otsu (1979), IEEE Trans SMC 9:62. doi:10.1109/TSMC.1979.4310076

    >>> bool(2 < otsu(np.r_[np.full(9, 1.0), np.full(5, 4.0)]) < 3)
    True
    """
    counts, edges = np.histogram(values, bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide='ignore', invalid='ignore'):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.nan_to_num(between)
    # equal over a gap without values: take the middle of the gap
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1:-1][best].mean())
