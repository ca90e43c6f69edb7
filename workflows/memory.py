"""Memory that each step needs, from the sizes of the images that it works on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from bids_qsm.recon.registry import Need

if TYPE_CHECKING:
    from bids_qsm.layout.bold_run import BoldRun
    from bids_qsm.layout.series import Series


MARGIN_MM = 30.0
"""What the boxes of Fourier transforms stand over the brain, all in all along each axis."""


@dataclass(frozen=True)
class Sizes:
    """Memory (GB) of a series' images as float32.

    One volume, one with margins, all echoes, all that is stored (of each coil), the anatomical image, all
    frames of a BOLD run or of diffusion images, and a volume with margins in voxels of 1 mm.
    """

    volume: float
    padded: float
    echoes: float
    stored: float
    anat: float
    run: float = 0.0
    cubes: float = 0.0

    @classmethod
    def of(cls, series: 'Series'):
        """Sizes of a Series."""
        volume = _gb(series.shape)
        margins = (math.ceil(MARGIN_MM / side) for side in series.voxel_size)
        padded = _gb(n + m for n, m in zip(series.shape, margins, strict=True))
        return cls(
            volume=volume,
            padded=padded,
            echoes=volume * len(series.echo_times),
            stored=volume * len(series.echo_times) * series.coils,
            anat=_gb(series.anat_shape or series.shape),
            cubes=padded * math.prod(series.voxel_size),
        )

    def with_run(self, bold: 'BoldRun'):
        """The same beside a BOLD run."""
        return self.with_frames(bold.shape)

    def with_frames(self, shape: tuple[int, ...]):
        """The same beside images of a 4D ``shape``."""
        return replace(self, run=_gb(shape))


def _gb(shape: Iterable[int]) -> float:
    return 4e-9 * math.prod(shape)


NEEDS = {
    'condition': Need(volume=8, stored=3.5),
    'condition coils': Need(volume=12, echoes=4, stored=3.3),
    # one frame at a time, however many there are
    'average_frames': Need(volume=36, echoes=14),
    'coarsen': Need(volume=8, echoes=4),
    'offset': Need(volume=2, echoes=4),
    'quality': Need(volume=2, echoes=3),
    'combine': Need(volume=1, echoes=2),
    'curvature': Need(volume=6, padded=8),
    'refine': Need(volume=6, echoes=1),
    'read_maps': Need(padded=17, echoes=2),
    'strict': Need(volume=4),
    'merge': Need(volume=8),
    'compare': Need(volume=9, padded=6),
    'compare_regions': Need(volume=8),
    'level': Need(0.2, volume=6),
    # the images of the template, of 1 mm, are in what does not depend on the sizes
    'bias': Need(0.07, anat=9),
    'brain_extraction': Need(0.23, anat=4),
    # of its grid of 1.5 mm over a field of view of 256 mm
    'hdbet': Need(4.0, anat=4),
    # one frame at a time
    'mean': Need(0.3),
    'fit_tensor': Need(0.3, run=2.5),
    'register_rigid': Need(0.13, volume=5, anat=4),
    'resample_anat': Need(volume=4, anat=4),
    'place_atlas': Need(0.15, anat=9),
    # through the displacements of the whole anatomy, and through matrices alone
    'resample_gre': Need(0.15, volume=5, anat=9),
    'carry_mask': Need(0.08, volume=5, anat=4),
    'resample_template': Need(0.4, volume=4, anat=3),
    'read_segmentation': Need(0.4, anat=4),
    'plot': Need(volume=6.5),
    'plot_phase': Need(echoes=2, volume=3),
    'plot_anat': Need(anat=7),
    'flicker': Need(0.13, anat=3.5),
}
"""Of the steps without a choice of methods, measured by benchmarks/memory.py."""


def need(step: str | Need, sizes: Sizes) -> float:
    """Most memory (GB) that a step holds beyond what its process held before.

    ``step`` is a name of `NEEDS`, or the need of a method.
    """
    one = NEEDS[step] if isinstance(step, str) else step
    return one.fixed + sum(getattr(one, size.name) * getattr(sizes, size.name) for size in fields(sizes))
