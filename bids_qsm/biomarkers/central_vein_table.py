"""Tables of the central vein sign: columns of lesions, and the share of lesions with the sign."""

import numpy as np
import pandas as pd
from scipy import special

from bids_qsm.biomarkers.central_vein import (
    ASIDE,
    COARSE,
    CONFLUENT,
    FAINT,
    NONE,
    OUTSIDE,
    PLACES,
    SEVERAL,
    SHORT,
    SMALL,
    WIDE,
)

RULE = 0.4
"""Share of lesions with the sign from which the 40 % rule is met. doi:10.1001/jamaneurol.2023.4737"""
SELECT = 6
"""Lesions with the sign from which Select-6* is met. doi:10.1177/13524585231214360"""
_NO = '; '.join((NONE, ASIDE, SHORT, WIDE, FAINT))
_EXCLUDED = '; '.join((SMALL, CONFLUENT, SEVERAL, OUTSIDE, COARSE))
LESION_COLUMNS = {
    'source': ('Lesion mask that the row is from.', ''),
    'lesion': ('Number of the lesion, as in the table of lesions.', ''),
    'label': ('Label of the lesion in the image of assessed lesions.', ''),
    'cvs': (
        'Central vein sign (doi:10.1038/nrneurol.2016.166): yes, no, or excluded where a lesion must not or '
        'cannot be assessed. Not a diagnosis.',
        '',
    ),
    'reason': (f'Of no: {_NO}. Of excluded: {_EXCLUDED}. n/a of yes.', ''),
    'score': (
        'Length of vein in the core of the lesion (its inner half, by depth) over the diameter of the core, '
        'at most 1; of the vein that has most. n/a where voxels are too large.',
        'fraction',
    ),
    'p': (
        f'Share of {PLACES} random places of the white matter, and of mirror images of the lesion, at which '
        'its core would hold as much vein. It is high where veins are dense. n/a of excluded lesions, and '
        'where no vein was found.',
        '',
    ),
    'size_mm': ('Least extent of the lesion along the axes of the maps.', 'mm'),
    'n_veins': ('Veins that run through the core.', ''),
    'vein_width_mm': ('Median diameter of the vein within the lesion.', 'mm'),
    'off_centre_mm': ('Least distance of the vein from the centre of the lesion.', 'mm'),
    'n_planes': ('Planes through the centre, of three, in which the vein is seen.', ''),
    **{axis: (f'{axis} coordinate of the centre (scanner, RAS).', 'mm') for axis in 'xyz'},
}
SHARE_COLUMNS = {
    'source': ('Lesion mask that the row is from.', ''),
    'n_lesions': ('Lesions on the grid of the maps.', ''),
    'n_assessed': ('Lesions that were assessed: cvs is yes or no.', ''),
    'n_cvs': ('Lesions with the sign.', ''),
    'share': ('Of the lesions assessed, those with the sign.', 'fraction'),
    'ci_low': ('Lower end of its 95 % interval (Wilson): of the number of lesions alone.', 'fraction'),
    'ci_high': ('Upper end of the interval.', 'fraction'),
    'rule_40': (
        f'40 % rule: yes where the share is at least {RULE:g} (doi:10.1001/jamaneurol.2023.4737). n/a '
        'without a lesion assessed.',
        '',
    ),
    'rule_40_sure': ('Whether the interval lies on one side of 40 %: yes or no.', ''),
    'select_6': (
        f'Select-6*: yes from {SELECT} lesions with the sign (doi:10.1177/13524585231214360). n/a without a '
        'lesion assessed.',
        '',
    ),
    'remark': ('Why nothing could be assessed.', ''),
}


def wilson(count: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    r"""Score interval of a share.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    >>> [round(end, 3) for end in wilson(5, 10)]
    [0.237, 0.763]
    """
    if not total:
        return np.nan, np.nan
    z, share = float(special.ndtri((1 + level) / 2)), count / total
    middle = share + z**2 / (2 * total)
    half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return float((middle - half) / scale), float((middle + half) / scale)


def share_table(lesions: pd.DataFrame) -> pd.DataFrame:
    """One row a lesion mask, see `SHARE_COLUMNS`.

    Parameters
    ----------
    lesions : DataFrame
        Columns source, cvs and reason.
    """
    rows = []
    for source, own in lesions.groupby('source', sort=False):
        assessed, found = own['cvs'].isin(['yes', 'no']).sum(), (own['cvs'] == 'yes').sum()
        low, high = wilson(int(found), int(assessed))
        row = {
            'source': source,
            'n_lesions': len(own),
            'n_assessed': int(assessed),
            'n_cvs': int(found),
            'share': found / assessed if assessed else np.nan,
            'ci_low': low,
            'ci_high': high,
        }
        if assessed:
            row |= {
                'rule_40': _word(row['share'] >= RULE),
                'rule_40_sure': _word(low >= RULE or high < RULE),
                'select_6': _word(found >= SELECT),
            }
        else:
            row['remark'] = COARSE if (own['reason'] == COARSE).all() else 'no lesion could be assessed'
        rows.append(row)
    return pd.DataFrame(rows, columns=list(SHARE_COLUMNS))


def _word(is_so: bool):
    return 'yes' if is_so else 'no'
