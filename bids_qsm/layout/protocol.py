"""One protocol for series of several scanners: a window of echo times, and voxels of one size."""

from dataclasses import replace
from pathlib import Path

from bids_qsm.errors import size_text
from bids_qsm.interfaces.io import grid_of
from bids_qsm.layout import checks
from bids_qsm.layout.series import Rejected, Series
from bids_qsm.recon.resolution import SAME, is_same, to_finer

_TOLERANCE = 1e-6  # s


def common_protocol(series: Series, *, echo_window: str = '', voxel_size: str = '') -> Series | Rejected:
    """The series with the echoes of a window (ms, 'LOW,HIGH'), to be resampled to a voxel size (mm).

    Rejected where no echo remains, or where a voxel would be smaller than it was acquired.
    """
    name = series.files[0].name
    if echo_window:
        low, high = (float(part) / 1000 for part in echo_window.split(','))
        kept = [i for i, t in enumerate(series.echo_times) if low - _TOLERANCE <= t <= high + _TOLERANCE]
        if not kept:
            times = ', '.join(f'{1e3 * t:.4g}' for t in series.echo_times)
            reason = (
                f'{name}: --echo-window {echo_window} holds none of its echo times ({times} ms); widen it.'
            )
            return Rejected(series.name, reason, True)
        series = replace(series, echo_window=(low, high))
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
                reason = (
                    f'{name} has voxels of {size_text(series.voxel_size)} mm, larger than those of '
                    f'--voxel-size {voxel_size}; interpolation adds no resolution, so choose larger ones.'
                )
                return Rejected(series.name, reason, True)
        if not all(is_same(old, new) for old, new in zip(series.voxel_size, wanted, strict=True)):
            series = replace(series, resampled=wanted)
    return series


def without_protocol(series: Series, *, echo_window: str = '', voxel_size: str = '') -> Series:
    """A series that starts from maps, with a note that what was asked for does nothing."""
    asked = {'--echo-window': echo_window, '--voxel-size': voxel_size}
    named = ' and '.join(flag for flag, value in asked.items() if value)
    if not named:
        return series
    note = f'It starts from maps that were made before, which {named} leave as they are.'
    return replace(series, notes=(*series.notes, note))


def lies_on_series(path: Path, series: Series) -> bool:
    """Whether a file lies on the grid of a series as acquired, or on that of its maps."""
    first = series.files[0]
    if checks.lies_on(path, first):
        return True
    if not series.resampled or checks.image_problem(path) or checks.image_problem(first):
        return False
    own, image = checks.load_header(path), checks.load_header(first)
    affine = image.affine @ to_finer(grid_of(image), series.resampled)
    return own.shape[:3] == series.resampled_shape and checks.same_affine(own.affine, affine)


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
