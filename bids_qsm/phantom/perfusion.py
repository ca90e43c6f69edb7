"""Blood flow and oxygen use of a digital head."""

import numpy as np
from scipy import spatial

from bids_qsm.phantom.head import Head

FLOW = {'grey': 60.0, 'white': 25.0}
"""Cerebral blood flow (ml / 100 g / min) of each tissue."""


def simulate_perfusion(head: Head, shape: tuple[int, ...], affine: np.ndarray):
    r"""Blood flow and what it takes with it, on a scanner grid.

    .. math:: OEF = (Y_a - Y_v) / Y_a, \quad CMRO_2 = CBF \cdot OEF \cdot C_a

    The venous oxygenation of tissue is the mean of that of the eight nearest veins where they begin.

    Parameters
    ----------
    head : Head
    shape, affine
        Grid.

    Returns
    -------
    dict of str to ndarray of float32
        cbf (ml / 100 g / min), oef (0 .. 1) and cmro2 (umol / 100 g / min); 0 outside of grey and
        white matter.
    """
    share = head.sample(shape, affine, ('brain', 'csf', 'white', 'blood'))
    white = share['white']
    grey = np.clip(share['brain'] * (1 - share['blood']) - share['csf'] - white, 0, 1)
    cbf = FLOW['grey'] * grey + FLOW['white'] * white
    segments = head.vessels()
    fed = {s.downstream for s in segments}
    first = [s for s in segments if s.index not in fed]
    inside = np.argwhere(cbf > 0)
    points = inside @ affine[:3, :3].T + affine[:3, 3]
    near = spatial.cKDTree([s.points[0] for s in first]).query(points, 8)[1]
    venous = np.array([s.oxygenation for s in first])[near].mean(1)
    oef = np.zeros(shape, np.float32)
    oef[tuple(inside.T)] = 1 - venous / head.blood.arterial
    return {'cbf': cbf, 'oef': oef, 'cmro2': cbf * oef * np.float32(head.blood.oxygen_content)}
