"""One head in several positions, as COSMOS and the susceptibility tensor need it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bids_qsm.phantom.dataset import Visit
from bids_qsm.phantom.fibres import Fibres
from bids_qsm.phantom.gre import Protocol

Turn = tuple[float, float, float]


def head_turns(n: int, *, reach: float = 25.0) -> list[Turn]:
    """Turns of the head (degrees about x, y and z): none, then about x and y by up to ``reach``.

    >>> head_turns(3)
    [(0.0, 0.0, 0.0), (25.0, 0.0, 0.0), (0.0, 25.0, 0.0)]
    """
    r, d = reach, reach / 2**0.5
    ring = [(r, 0), (0, r), (-r, 0), (0, -r), (d, d), (-d, -d), (d, -d), (-d, d)]
    half = [(r / 2, r / 4), (-r / 4, r / 2), (-r / 2, -r / 4)]
    plan = [(0.0, 0.0), *ring, *half]
    if n > len(plan):
        raise ValueError(f'there are {len(plan)} turns, not {n}')
    return [(float(x), float(y), 0.0) for x, y in plan[:n]]


def positions(
    subject: str,
    person: int,
    turns: Sequence[Turn],
    protocol: Protocol,
    *,
    session: str | None = None,
    fibres: Fibres | None = None,
    follows: float = 0.5,
    t1w: float | None = None,
):
    """Visits of a session in which the head is turned from series to series: acq-pos1, acq-pos2 and so on.

    Parameters
    ----------
    turns : sequence of (3,)
        Degrees about x, y and z.
    follows : float
        Share of its turn that the slab of a series is tilted by.
    t1w : float, optional
        Voxel size (mm) of a T1-weighted image in about the first position.

    Returns
    -------
    list of Visit
    """
    return [
        Visit(
            subject,
            session,
            person,
            replace(protocol, rotation=tuple(follows * np.array(turn))),
            t1w if n == 1 else None,
            turned=turn,
            acq=f'pos{n}',
            fibres=fibres,
        )
        for n, turn in enumerate(turns, 1)
    ]
