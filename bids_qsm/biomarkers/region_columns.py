"""Columns of the table of regions, and what each holds."""

from bids_qsm.biomarkers.columns import data_dictionary

BORDER_MM = {'own': 0.25, 'prior': 0.8}
"""Standard deviation (mm) of the border of a nucleus that was segmented in the person, and of one that kept
the outline of the atlas. Judgements: the first is a quarter of a usual voxel, the second what registration of
T1w leaves in nuclei that T1w hardly shows."""
AGAINST = {'CSF': 'against_csf', 'White matter': 'against_white_matter', 'Brain': 'against_brain'}
"""Columns of susceptibility less that of each reference region."""


def dictionary(atlas: str = ''):
    """Describe every column of `region_table`, as a BIDS data dictionary."""
    unit = 'that of the map, see column units'
    of_whole, of_core = 'over the voxels of the whole region', 'over the voxels of the core'
    noise = (
        'from the spread of the core and the effective number of independent voxels: the correlation of '
        'voxels is estimated from the variogram of the map inside the regions, and variation within the core '
        'counts as error'
    )
    position = 'the error of the position of the border, see border_mm'
    described = {
        'region': (
            f'Region of the atlas{" " + atlas if atlas else ""}; SN is SNc and SNr together, GP is GPe and '
            'GPi. Brain is the whole mask, CSF the fluid of the lateral ventricles (found by low R2*), White '
            'matter deep cerebral white matter.',
            None,
        ),
        'hemisphere': ('L, R, or both together.', None),
        'index': ('Label in the segmentation; n/a for regions of several labels or none.', None),
        'map': (
            'Map that the row describes: chi (susceptibility) or R2star (transverse relaxation rate).',
            None,
        ),
        'n_voxels': ('Number of voxels of the whole region inside the mask.', 'voxels'),
        'volume_mm3': ('Volume of the whole region inside the field of view.', 'mm^3'),
        'coverage': (
            'Share of the region that lies inside the field of view and the mask; 0 where it is outside. '
            'What the field of view cuts off does not count for Brain, CSF and White matter: it is the '
            'share of the region in the field of view that lies inside the mask.',
            'fraction',
        ),
        'mean': (f'Mean {of_whole}.', unit),
        'sd': (f'Standard deviation {of_whole}.', unit),
        'se': (
            f'Standard error of mean: noise ({noise}) and {position}. It does not count the tissue that '
            'voxels at the border share with the surroundings. Of Brain, CSF and White matter, noise alone.',
            unit,
        ),
        'median': (f'Median {of_whole}.', unit),
        'p5': (f'5th percentile {of_whole}.', unit),
        'p95': (f'95th percentile {of_whole}.', unit),
        'mean_positive': (f'Mean of the positive values {of_whole}.', unit),
        'mean_weighted': (
            'Mean over all voxels that lie in the region in part, weighted by p^2 / (p^2 + (1 - p)^2) of the '
            'share p of each (probseg). n/a where shares are not known.',
            unit,
        ),
        'se_weighted': ('Standard error of mean_weighted, from the same as se.', unit),
        'border_effect': (
            'Change of mean if all of the border lay further out by its standard deviation, border_mm. The '
            'group level fits its models to it too: where a neighbour changes, so does the error that a '
            'border off in all subjects makes.',
            unit,
        ),
        'core': (
            'What the core is, which holds little of the surroundings: eroded (all six neighbours lie '
            'in the region), inner (at least four do; for small regions), whole (the whole region, if it is '
            'very small or a reference), none (region not found).',
            None,
        ),
        'core_voxels': ('Number of voxels of the core inside the mask.', 'voxels'),
        'core_mean': (
            f'Mean {of_core}. It is not comparable with the mean of the whole region, here or in other '
            'studies.',
            unit,
        ),
        'core_sd': (f'Standard deviation {of_core}.', unit),
        'core_se': ('Standard error of core_mean from noise alone.', unit),
        'core_median': (f'Median {of_core}.', unit),
        'mean_pv': (
            'Mean of the whole region, corrected for partial volume: least squares on the spread functions '
            'of all regions and of the surroundings of each (geometric transfer matrix). n/a for Brain, CSF '
            'and White matter, and where the data do not determine it.',
            unit,
        ),
        'se_pv': (
            f'Standard error of mean_pv: noise correlated between voxels as in se, and {position}.',
            unit,
        ),
    }
    for name, column in AGAINST.items():
        described[column] = (
            f'Mean less the mean of {name}; n/a for other maps and where it was not found.',
            'ppm',
        )
        described[f'se_{column}'] = (f'Standard error of {column}: se and the zero_se of {name}.', 'ppm')
    described |= {
        'zero_se': (
            'Standard error of a reference region as the zero of susceptibility: se, and half the difference '
            'between its halves (root mean square over splits along the three axes of the image), as slow '
            'errors of the map do not average out over it. The smallest marks the steadiest zero, see note. '
            'n/a for all other rows.',
            'ppm',
        ),
        'source': (
            "Where the outline comes from: own (segmented in the subject's maps), prior (that of the atlas, "
            'moved with its neighbours), mixed (labels of both kinds); n/a where nuclei were not segmented.',
            None,
        ),
        'confidence': (
            'Share of the variance of susceptibility in and around the nucleus that its outline explains; 0 '
            'for prior; the least of several labels.',
            'fraction',
        ),
        'moved_mm': (
            'Distance of the nucleus from where registration put that of the atlas; the largest of several '
            'labels.',
            'mm',
        ),
        'volume_ratio': (
            'Volume over that of the atlas, scaled to the head by the affine part of the registration; of '
            'several labels the mean, weighted by volume.',
            'ratio',
        ),
        'border_mm': (
            f'Standard deviation of the position of the border that se counts: {BORDER_MM["own"]} for own, '
            f'{BORDER_MM["prior"]} for prior, 0.4 for labels without a source; the largest of several '
            'labels.',
            'mm',
        ),
        'units': ('Unit of the statistics: ppm for susceptibility, 1/s for R2*.', None),
        'reference': ('Region whose susceptibility is zero; n/a for other maps.', None),
        'note': (
            'Description of a reference region, whether its zero is the steadiest of those found, or why a '
            'region has no statistics; otherwise n/a.',
            None,
        ),
    }
    return data_dictionary(described)
