"""Regions of the Microbleed Anatomical Rating Scale, by geometry in template space, and their counts."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

LOBES = ('frontal', 'parietal', 'temporal', 'occipital', 'insula')
"""Lobar regions."""
REGIONS = (*LOBES, 'deep', 'infratentorial')
"""Regions of the scale; its parts of the deep and infratentorial ones are not told apart."""
GROUPS = {**dict.fromkeys(LOBES, 'lobar'), 'deep': 'deep', 'infratentorial': 'infratentorial'}
SIDES = ('L', 'R')
NOWHERE = 'not assessable'
CERTAINTIES = ('definite', 'possible')
WORDS = {
    'infratentorial': 'cerebell|dentate(?!.?gyr)|brain.?stem|pons|medulla|midbrain|vermis|nigra|red.nucleus'
    '|tegment|parabrachial|<(?:rn|sn[cr]?|vta|pbp)>',
    'deep': 'putamen|caudate|pallid|thalam|accumbens|capsule|callosum|habenul|mammillary|extended.amygdala'
    '|<(?:gp[ei]?|stn)>',
    **{lobe: lobe for lobe in ('frontal', 'parietal', 'temporal', 'occipital')},
    'insula': 'insula',
}
"""Words in names of labels that state a region, as patterns; < and > stand for no letter beside it."""
_MIDLINE = 1.0
"""Half the width (mm) of what counts to neither side."""
CALCIUM = {
    'pineal': ((0, -30, 1), (5, 6, 5)),
    'choroid plexus': ((24, -42, 12), (9, 9, 12)),
    'falx': ((0, 5, 60), (3, 80, 32)),
    'globus pallidus': ((19, -4, 0), (7, 9, 6)),
}
"""Where calcium is physiological: middle and half sides (mm) of a box in the template, of the right side."""


def mars_regions(points: np.ndarray):
    r"""Region of the Microbleed Anatomical Rating Scale [1]_ of points of template space.

    Lobes are parted by planes through landmarks: central sulcus, lateral sulcus, parieto-occipital sulcus
    and preoccipital notch. 'deep' is an ellipsoid about ventricles and central grey matter: basal ganglia,
    thalamus, capsules, corpus callosum, and the white matter next to them. 'infratentorial' lies below a
    plane on each side that stands for the tentorium, or is the brainstem. The map is approximate: near a
    border, the region is as good as the registration and the person's likeness to the template.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        RAS (mm), MNI152.

    Returns
    -------
    ndarray of str, shape (n,)
        Of REGIONS.

    References
    ----------
    .. [1] Gregoire et al. (2009), Neurology 73:1759. doi:10.1212/WNL.0b013e3181c34a7d

    Examples
    --------
    >>> mars_regions(np.array([[20, 50, 20], [50, -20, -20], [-10, -90, 5], [15, -20, 8]])).tolist()
    ['frontal', 'temporal', 'occipital', 'deep']
    """
    x, y, z = np.asarray(points, float).reshape(-1, 3).T
    a = np.abs(x)
    found = np.full(len(a), 'frontal', 'U16')
    # through (20, -29, 68) and (58, -2, 22)
    found[(y < -29 + 0.6 * (68 - np.maximum(z, 12))) & (y < -6)] = 'parietal'
    # the lateral sulcus rises backwards, from (45, 12, -8) to (55, -35, 20); then its end, towards the notch
    lateral = np.where(y > -38, -1 - 0.58 * y, 21 + 0.45 * (y + 38))
    below = (z < lateral) & (y < 8) & ((a > 26) | (a > 12) | (y < -20))
    below |= (z < -14) & (y >= 8) & (y < 24) & (a > 27)
    found[below] = 'temporal'
    # on the medial face the parieto-occipital sulcus, on the lateral face a line from it to the notch
    notch = np.where(a < 22, -54 - 0.5 * (z - 5), -64 - 0.35 * np.maximum(z, 0))
    notch = np.where((a < 22) & (z < 5), -52.0, notch)
    found[y < np.minimum(notch, -50)] = 'occipital'
    insula = (a > 29) & (a < 45) & (y > -26) & (y < 26) & (z > -16) & (z < 18)
    found[insula & (z > -22 - 0.5 * y)] = 'insula'
    deep = (a / 36) ** 2 + ((y + 6) / 40) ** 2 + ((z - 8) / 22) ** 2 < 1
    found[deep & (a < 31)] = 'deep'
    ridge = 1 + 0.375 * (np.minimum(y, -52) + 52)
    found[(y < -34) & (z < ridge - 2 - (a / 57) ** 1.1 * (ridge + 32))] = 'infratentorial'
    # hypothalamus and mammillary bodies lie below the ellipsoid, in front of the midbrain
    found[(a < 12) & (y > -20) & (y < 4) & (z > -17) & (z < 0)] = 'deep'
    # the midbrain begins below the posterior commissure, and behind the mammillary bodies
    top = np.minimum(-3, -6.5 - 0.65 * (y + 19))
    found[(a < np.where(z > -8, 9, 15)) & (y > -52) & (y < -10) & (z < top)] = 'infratentorial'
    found[(a < 12) & (y > -52) & (y < -6) & (z <= -17)] = 'infratentorial'
    return found


def sides(points: np.ndarray):
    """L or R of points of template space (n, 3), 'midline' within a millimetre of it."""
    x = np.asarray(points, float).reshape(-1, 3)[:, 0]
    return np.where(np.abs(x) <= _MIDLINE, 'midline', np.where(x < 0, *SIDES))


def physiological(point: np.ndarray):
    """Place of physiological calcium that holds a point of template space; '' where none does."""
    x, y, z = np.asarray(point, float)
    for name, (middle, half) in CALCIUM.items():
        if (np.abs(np.array([abs(x), y, z]) - middle) <= half).all():
            return name
    return ''


def region_of_label(name: str):
    """Region of the scale that the name of a label of an atlas states; '' where it states none.

    >>> region_of_label('Superior Frontal Gyrus'), region_of_label('Putamen'), region_of_label('GPe')
    ('frontal', 'deep', 'deep')
    >>> region_of_label('Dentate'), region_of_label('SNc'), region_of_label('Dentate Gyrus')
    ('infratentorial', 'infratentorial', '')
    """
    patterns = {r: words.replace('<', '(?<![a-z])').replace('>', '(?![a-z])') for r, words in WORDS.items()}
    return next((region for region, one in patterns.items() if re.search(one, name.lower())), '')


def mars_place(row: Mapping, *, known: bool):
    """Columns mars_region, mars_from, side and physiological of a candidate.

    Parameters
    ----------
    row : mapping
        nearest_region, region_distance_mm, hemisphere and the coordinates template_x, _y, _z (mm).
    known : bool
        Whether these are those of the template.
    """
    held = row['region_distance_mm'] == 0
    stated = region_of_label(row['nearest_region']) if held else ''
    point = np.array([[row[f'template_{axis}'] for axis in 'xyz']])
    place = {'mars_region': NOWHERE, 'mars_from': 'n/a', 'side': NOWHERE, 'physiological': 'n/a'}
    if known:
        place |= {'mars_region': str(mars_regions(point)[0]), 'mars_from': 'geometry'}
        place |= {'side': str(sides(point)[0]), 'physiological': physiological(point[0]) or 'n/a'}
    if stated:
        place |= {'mars_region': stated, 'mars_from': 'atlas'}
        if row['hemisphere'] in SIDES:
            place['side'] = row['hemisphere']
    return place


def size_class(diameter: float):
    """Size class of the Brain Observer MicroBleed Scale [1]_, by the diameter (mm).

    References
    ----------
    .. [1] Cordonnier et al. (2009), Stroke 40:94. doi:10.1161/STROKEAHA.108.526996

    >>> [size_class(d) for d in (3.0, 5.0, 12.0)]
    ['<5 mm', '5-10 mm', '>10 mm']
    """
    return '<5 mm' if diameter < 5 else '5-10 mm' if diameter <= 10 else '>10 mm'


def mars_table(candidates: pd.DataFrame, *, assessable: bool = True):
    """Count microbleeds by region, side and certainty.

    Parameters
    ----------
    candidates : DataFrame
        Columns class, certainty, mars_region, side.
    assessable : bool
        Whether the registration to the template, which tells regions, is known; without it all counts are
        n/a.

    Returns
    -------
    DataFrame
        One row for each region and side: mars_region, side, definite, possible, total, assessable.
    """
    bleeds = candidates[candidates['class'] == 'microbleed']
    rows = []
    for region in REGIONS:
        for side in (*SIDES, 'midline'):
            here = bleeds[(bleeds['mars_region'] == region) & (bleeds['side'] == side)]
            counts = {one: int((here['certainty'] == one).sum()) for one in CERTAINTIES}
            rows.append({'mars_region': region, 'side': side, **counts, 'total': len(here)})
    table = pd.DataFrame(rows)
    table['assessable'] = 'yes' if assessable else NOWHERE
    if not assessable:
        table[[*CERTAINTIES, 'total']] = np.nan
    return table


def pattern(regions: Sequence[str]):
    """Pattern of microbleeds by their regions: 'lobar only', 'deep', 'mixed', 'none' or 'not assessable'.

    Infratentorial ones count as deep, as both are taken to come of arteries of the depth.

    >>> pattern(['frontal', 'deep']), pattern(['frontal', 'insula']), pattern([])
    ('mixed', 'lobar only', 'none')
    >>> pattern(['frontal', NOWHERE])
    'not assessable'
    """
    if not set(regions) <= set(GROUPS):
        return NOWHERE
    groups = {'lobar' if GROUPS[one] == 'lobar' else 'deep' for one in regions}
    return {frozenset(): 'none', frozenset({'lobar'}): 'lobar only', frozenset({'deep'}): 'deep'}.get(
        frozenset(groups), 'mixed'
    )


def mars_dictionary():
    """Describe every column of `mars_table`, as a BIDS data dictionary."""
    columns = {
        'mars_region': 'Region of the Microbleed Anatomical Rating Scale, by geometry in template space: '
        'approximate.',
        'side': 'L, R, or midline: within a millimetre of it.',
        'definite': 'Definite microbleeds; not confirmed by a reader.',
        'possible': 'Possible microbleeds; not confirmed by a reader.',
        'total': 'Both.',
        'assessable': 'yes, or not assessable: without a registration to the template.',
    }
    return {name: {'Description': text} for name, text in columns.items()}
