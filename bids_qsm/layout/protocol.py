"""One protocol for series of several scanners: a window of echo times, and voxels of one size."""

from dataclasses import replace

from bids_qsm.layout.series import Rejected, Series
from bids_qsm.recon.resolution import SAME, is_same

_TOLERANCE = 1e-6  # s


def common_protocol(series: Series, *, echo_window: str = '', voxel_size: str = '') -> Series | Rejected:
    """The series with the echoes of a window (ms, 'LOW,HIGH'), to be resampled to a voxel size (mm).

    Rejected where no echo remains, or where a voxel would be smaller than it was acquired.
    """
    name = series.files[0].name
    if echo_window:
        low, high = (1e-3 * float(part) for part in echo_window.split(','))
        kept = [i for i, t in enumerate(series.echo_times) if low - _TOLERANCE <= t <= high + _TOLERANCE]
        if not kept:
            times = ', '.join(f'{1e3 * t:.4g}' for t in series.echo_times)
            reason = (
                f'{name}: --echo-window {echo_window} holds none of its echo times ({times} ms); widen it.'
            )
            return Rejected(series.name, reason, True)
        left = [f'{1e3 * t:.4g}' for i, t in enumerate(series.echo_times) if i not in kept]
        if left:
            series = replace(
                series,
                **{part: _echoes(getattr(series, part), kept, series.coils) for part in _PARTS},
                echo_times=tuple(series.echo_times[i] for i in kept),
                notes=(*series.notes, f'Echoes at {", ".join(left)} ms are left out, by --echo-window.'),
            )
    if voxel_size:
        wanted = sizes(voxel_size)
        for old, new in zip(series.voxel_size, wanted, strict=True):
            if new < (1 - SAME) * old:
                own = ' x '.join(f'{v:.3g}' for v in series.voxel_size)
                reason = (
                    f'{name} has voxels of {own} mm, larger than those of --voxel-size {voxel_size}; '
                    'interpolation adds no resolution, so choose larger ones.'
                )
                return Rejected(series.name, reason, True)
        if not all(is_same(old, new) for old, new in zip(series.voxel_size, wanted, strict=True)):
            series = replace(series, resampled=wanted)
    return series


_PARTS = ('magnitude', 'phase', 'real', 'imag')


def _echoes(files: tuple, kept: list[int], coils: int) -> tuple:
    return tuple(file for i in kept for file in files[i * coils : (i + 1) * coils])


def sizes(text: str) -> tuple[float, float, float]:
    """Voxel size (mm) along the three axes, from one number or three.

    >>> sizes('1'), sizes('0.8,0.8,3')
    ((1.0, 1.0, 1.0), (0.8, 0.8, 3.0))
    """
    numbers = [float(part) for part in text.split(',')]
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    return first, second, third
