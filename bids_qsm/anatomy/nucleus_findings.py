"""What is told of the nuclei of a person: which were made out, and whether the others may be wrong."""

import numpy as np

from bids_qsm.anatomy.nucleus_search import shifts_alone
from bids_qsm.anatomy.nucleus_shapes import Nucleus
from bids_qsm.recon.arrays import Array

LEAST_CONTRAST = 0.012
"""Difference (ppm) to the surroundings below which a nucleus is not made out."""
_FAINT = ('Thalamus',)
"""Nuclei that differ by less from their surroundings in many heads: by 4 to 10 ppb in those of the demo.

Where the nuclei lie as in the atlas, its outline, moved with them, is right: Dice .96 where they lie 1.0 mm
from where the others let expect them; .89, .88, .76 and .76 where that is 2.2, 3.1, 3.3 and 4.3 mm."""
_APART_MM = 2.0
"""Distance of nuclei from where the others let expect them beyond which outlines of the atlas may be wrong.

The model of their positions has about as much: 1.2 mm along each axis (`own_mm` of `coupling`)."""
LOW = 'its contrast is too low'


def finding(found: str, action: str, evidence: str = '', level: str = 'info'):
    """An entry of the findings of a series about the deep grey matter."""
    return {
        'what': 'Deep grey matter',
        'found': found,
        'action': action,
        'evidence': evidence,
        'level': level,
    }


def distance_apart(known: list[Nucleus], quality: dict[int, dict], covariance: Array) -> float:
    """Distance (mm, rms) of the nuclei made out from where the others of them let expect each."""
    rows = [i for i, n in enumerate(known) if quality[id(n)]['source'] == 'own']
    if len(rows) < 2:
        return np.inf
    shifts = np.array([quality[id(known[i])]['shift'] for i in rows])
    return float(np.sqrt((shifts_alone(shifts, covariance[np.ix_(rows, rows)]) ** 2).mean()))


def tell(known: list[Nucleus], quality: dict[int, dict], distance: float) -> list[dict]:
    """Findings: what was segmented, and what kept the outline of the atlas and why.

    ``distance`` (mm) is that of `distance_apart`.
    """
    own = [n for n in known if quality[id(n)]['source'] == 'own']
    found = []
    if own:
        lengths = sorted(
            ((quality[id(n)]['moved_mm'], f'{n.name} {n.hemisphere}') for n in own), reverse=True
        )
        listed = ', '.join(f'{name} {length:.1f} mm' for length, name in lengths)
        found.append(
            finding(
                f'{len(own)} of {len(known)} nuclei were made out in the maps; distance from the atlas: '
                f'{listed}.',
                "Their outlines are the subject's own.",
            )
        )
    kept: dict[tuple[str, str], list[str]] = {}
    for n in [n for n in known if n not in own]:
        reason = quality[id(n)]['reason']
        level, evidence = 'warning', ''
        if n.name in _FAINT and reason == LOW:
            level, evidence = _faint(n, own, quality, distance)
        kept.setdefault((level, evidence), []).append(f'{n.name} {n.hemisphere} ({reason})')
    for (level, evidence), names in sorted(kept.items()):
        said = f'Not made out in the maps: {"; ".join(names)}.'
        action = 'They have the outline of the atlas, moved with their neighbours.'
        found.append(finding(said, action, evidence, level))
    return found


def _faint(
    nucleus: Nucleus, own: list[Nucleus], quality: dict[int, dict], distance: float
) -> tuple[str, str]:
    """Level and evidence of a nucleus of low contrast, which is usual: whether its outline may be wrong."""
    usual = 'That is usual, as they differ little from what is around them.'
    if nucleus.placed is not None:  # where T1w shows it
        return 'info', usual
    seen = (quality[id(n)]['contrast'] for n in own if n.name == nucleus.name)
    more = max(seen, default=0.0) - quality[id(nucleus)]['contrast']
    if more > LEAST_CONTRAST:
        return 'warning', (
            f'The other side was made out, with {1e3 * more:.0f} ppb more; as both are much alike, this one '
            'was missed rather than faint: look at its outline.'
        )
    if distance > _APART_MM:
        where = 'Too few nuclei were made out to tell where it lies'
        if np.isfinite(distance):
            where = f'The nuclei made out lie {distance:.1f} mm from where the others let expect them'
        return 'warning', f'{where}, so the outline of the atlas may be as wrong: look at it.'
    return 'info', usual
