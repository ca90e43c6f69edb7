"""Memory that each step needs, from the sizes of the images that it works on."""

import math
from dataclasses import dataclass, fields

from bids_qsm.recon.registry import Need

MARGIN_MM = 30.0
"""What the boxes of Fourier transforms stand over the brain, all in all along each axis."""


@dataclass(frozen=True)
class Sizes:
    """Memory (GB) of a series' images as float32.

    One volume, one with margins, all echoes, all that is stored (of each coil), the anatomical image.
    """

    volume: float
    padded: float
    echoes: float
    stored: float
    anat: float

    @classmethod
    def of(cls, series):
        """Sizes of a Series."""
        volume = _gb(series.shape)
        margins = (math.ceil(MARGIN_MM / side) for side in series.voxel_size)
        return cls(
            volume=volume,
            padded=_gb(n + m for n, m in zip(series.shape, margins, strict=True)),
            echoes=volume * len(series.echo_times),
            stored=volume * len(series.echo_times) * series.coils,
            anat=_gb(series.anat_shape or series.shape),
        )


def _gb(shape):
    return 4e-9 * math.prod(shape)


NEEDS = {
    'condition': Need(0.05, volume=8, stored=3.5),
    'condition coils': Need(0.05, volume=12, echoes=4, stored=3.3),
    'offset': Need(0.05, volume=2, echoes=4),
    'quality': Need(0.05, volume=2, echoes=3),
    'combine': Need(0.05, volume=1, echoes=2),
    'make_mask combined': Need(0.05, volume=4, echoes=2),
    'make_mask bet': Need(0.08, volume=13, echoes=2),
    'make_mask two_pass': Need(0.05, volume=4, echoes=2),
    'make_mask brain': Need(0.05, volume=4, echoes=2),
    'make_mask quality': Need(0.05, volume=4, echoes=2),
    'make_mask magnitude': Need(0.05, volume=4, echoes=2),
    'unwrap_phase romeo': Need(0.05, volume=2, echoes=5.6),
    'unwrap_phase laplacian': Need(0.05, volume=5, echoes=3.5),
    'fit linear': Need(0.05, volume=2.5, echoes=3),
    'fit nonlinear': Need(0.05, volume=2.5, echoes=4),
    'refine': Need(0.05, volume=5),
    'strict': Need(0.05, volume=4),
    'relaxation arlo': Need(0.05, volume=4, echoes=2),
    'relaxation loglinear': Need(0.05, volume=4, echoes=2),
    'relaxation nlls': Need(0.05, volume=4, echoes=2),
    # with a mask that reaches the ends of the volume; one of nine tenths takes a fifth less
    'remove levelled': Need(0.1, padded=19),
    'remove vsharp': Need(0.05, padded=16.5),
    'remove sharp': Need(0.05, padded=8.5),
    'remove resharp': Need(0.05, padded=9.5),
    'remove ismv': Need(0.05, padded=8),
    'remove pdf': Need(0.05, padded=14.5),
    'remove lbv': Need(0.05, padded=8),
    'invert tv': Need(0.05, padded=17),
    'invert tkd': Need(0.05, padded=7.3),
    'invert nltv': Need(0.05, padded=17),
    'invert whnltv': Need(0.05, padded=22),
    'invert ndi': Need(0.05, padded=15),
    'invert l1qsm': Need(0.05, padded=17),
    'invert hdqsm': Need(0.05, padded=18.5),
    'invert tsvd': Need(0.05, padded=7.3),
    'invert l2': Need(0.05, padded=8),
    'invert tikhonov': Need(0.05, padded=15.5),
    'invert rts': Need(0.05, padded=14.5),
    'invert ilsqr': Need(0.05, padded=16),
    'invert medi': Need(0.05, padded=21),
    'invert medi0': Need(0.05, padded=23),
    'invert tgv': Need(0.05, padded=31),
    'merge': Need(0.05, volume=8),
    'refer csf': Need(0.05, volume=9.5),
    'refer brain': Need(0.05, volume=5),
    'refer none': Need(0.05, volume=5),
    'weigh clearswi': Need(0.05, volume=8, echoes=3),
    'weigh highpass': Need(0.05, volume=2, echoes=4),
    'weigh trueswi': Need(0.05, volume=5, echoes=2),
    # the images of the template, of 1 mm, are in what does not depend on the sizes
    'bias': Need(0.07, anat=9),
    'brain_extraction': Need(0.23, anat=4),
    'register dipy': Need(0.36, anat=4),
    'register greedy': Need(0.4, anat=20),
    'register_rigid': Need(0.13, volume=5, anat=4),
    'resample_anat': Need(0.05, volume=4, anat=4),
    'place_atlas': Need(0.15, anat=9),
    # through the displacements of the whole anatomy, and through matrices alone
    'resample_gre': Need(0.15, volume=5, anat=9),
    'carry_mask': Need(0.08, volume=5, anat=4),
    'resample_template': Need(0.4, volume=4, anat=3),
    'refine_labels': Need(0.95, volume=4, anat=4),
    'read_segmentation': Need(0.4, anat=4),
    'table': Need(0.2, volume=6),
    'table_many': Need(0.15, volume=52, anat=4),
    'number_lesions': Need(0.1, anat=6),
    'lesion_table': Need(0.2, volume=10, anat=10),
    'find': Need(0.1, volume=23, anat=10),
    'plot': Need(0.05, volume=6.5),
    'plot_phase': Need(0.05, echoes=2, volume=3),
    'plot_anat': Need(0.05, anat=7),
    'plot_regions': Need(0.05),
    'flicker': Need(0.13, anat=3.5),
}
"""Measured by benchmarks/memory.py; of a step with a choice of methods, each by 'step method'."""


def need(step: str, sizes: Sizes, method: str = '') -> float:
    """Most memory (GB) that a step holds beyond what its process held before."""
    one = NEEDS[f'{step} {method}'.strip()]
    return one.fixed + sum(getattr(one, size.name) * getattr(sizes, size.name) for size in fields(sizes))
