"""Columns of the table of candidates."""

from bids_qsm.biomarkers.columns import data_dictionary
from bids_qsm.biomarkers.focal_evidence import EVIDENCE
from bids_qsm.biomarkers.localisation import described


def dictionary():
    """Describe every column of `find_candidates`' table, as a BIDS data dictionary."""
    half = 'over the voxels of at least half the height of its peak'
    columns = {
        'candidate': ('Number of the candidate, and its label in the image of candidates.', None),
        'class': (
            'microbleed (paramagnetic), calcification (diamagnetic), large focus (over 10 mm: cavernoma or '
            'haemorrhage, not counted as a microbleed), vein (one enters and leaves), or indeterminate. '
            'Not a diagnosis: check the images.',
            None,
        ),
        'certainty': (
            'definite: confidence of at least one half, within the mask, and with a sign; else possible.',
            None,
        ),
        'reason': ('Why it is a vein or indeterminate; n/a otherwise.', None),
        'found_by': ('What showed it: susceptibility, R2*, or signal loss at the edge of the mask.', None),
        'confidence': (
            f'The least of {", ".join(EVIDENCE)}: 0 to 1; one half means that a harmless structure is as '
            'likely.',
            None,
        ),
        **described('candidate'),
        'mars_region': (
            'Region of the Microbleed Anatomical Rating Scale: frontal, parietal, temporal, occipital, '
            'insula (lobar), deep, infratentorial; not assessable without a registration to the template.',
            None,
        ),
        'mars_from': (
            'atlas: a label of the atlas in use says so; geometry: planes in template space, approximate.',
            None,
        ),
        'side': ('L, R or midline.', None),
        'physiological': (
            'Place where calcium is common in health (pineal, choroid plexus, falx, globus pallidus), by '
            'geometry in template space: approximate. n/a elsewhere.',
            None,
        ),
        'size_class': ('<5 mm, 5-10 mm or >10 mm.', None),
        'volume_mm3': ('Volume of the voxels of at least half the height of the peak.', 'mm^3'),
        'diameter_mm': ('Diameter of the ball of that volume.', 'mm'),
        'moment': (
            'Net dipole moment: susceptibility less that of the tissue around, integrated. From the field '
            'around the source, so that loss of signal within it does not matter.',
            'ppm mm^3',
        ),
        'moment_se': ('Its standard error, scaled by what the fit finds where no source is.', 'ppm mm^3'),
        'moment_from': (
            'local field; total field, with a background of second order, where the mask cuts the source; or '
            'susceptibility, where there is no local field.',
            None,
        ),
        'sign': (
            'Of the moment where it exceeds three standard errors: paramagnetic or diamagnetic, else '
            'indeterminate.',
            None,
        ),
        'chi_peak': ('Susceptibility at the peak.', 'ppm'),
        'chi_mean': (f'Mean susceptibility {half}.', 'ppm'),
        'chi_surround': ('Median susceptibility of a shell around it, a voxel away and 2 mm thick.', 'ppm'),
        'contrast_to_noise': (
            'Height of the peak over the tissue within some 8 mm, in standard deviations of that tissue.',
            None,
        ),
        'R2star_mean': (f'Mean R2* {half}.', '1/s'),
        'R2star_surround': ('Median R2* of the shell.', '1/s'),
        'darkness': ('Largest loss of magnitude against the tissue around: 0 to 1.', None),
        'dist_edge_mm': ('Distance to the edge of the mask, with its holes and notches filled.', 'mm'),
        'dist_vein_mm': ('Distance to the tree of veins; 0 where they touch, at most 20.', 'mm'),
        'dist_nucleus_mm': ('Distance to labels of nuclei rich in iron; at most 20.', 'mm'),
        'beside_nucleus': ('yes within 3 mm of such a nucleus, else no.', None),
        'vein_arms': ('Pieces of veins that end at the source.', None),
        'vesselness': (
            'Largest vesselness (0 to 1) of the tree of veins within 3 mm; 0 where no vein is near.',
            None,
        ),
        'strength': (
            'p / (p + h), where p is the height of the peak and h that of harmless structures: 5 standard '
            'deviations of the tissue; where paramagnetic that of the veins of this person, beside nuclei '
            'that of these, and in nuclei twice that, if they are higher.',
            None,
        ),
        'isolation': (
            '1 less the largest contrast of either sign in the shell, without veins and nuclei, over the '
            'height of the peak.',
            None,
        ),
        'roundness': ('Shortest over longest axis.', None),
        'apart': (
            '1 less the largest vesselness of the tree of veins in the source itself, or 1 less the height '
            'of these veins over that of the peak, whichever is more.',
            None,
        ),
        'decay': (
            'r / (r + 3 s), where r is R2star_mean less R2star_surround and s the spread of R2* in the '
            'shell; n/a without R2*.',
            None,
        ),
        'reference': ('Region whose susceptibility is zero.', None),
    }
    return data_dictionary(columns)
