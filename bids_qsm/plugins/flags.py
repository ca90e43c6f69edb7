"""How far a series lies from what a network was trained on."""

import math
from collections.abc import Mapping

import numpy as np

from bids_qsm.errors import size_text
from bids_qsm.plugins.manifest import Channel, Manifest
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion.noise_scale import PADDING
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.units import ppm_per_radian

SHARE = 0.01
"""Share of the mask that may have values beyond the training without a flag."""
ROUNDING = 0.005
WORDS = {'field': 'a field', 'chi': 'a susceptibility', 'r2prime': "an R2'", 'r2star': 'an R2*'}


def flags_of(
    manifest: Manifest,
    images: Mapping[str, np.ndarray],
    mask: np.ndarray,
    grid: Grid,
    field_strength: float,
    values: np.ndarray,
) -> list[str]:
    """Sentences on what is out of the distribution of the training; none where all is in its ranges.

    Parameters
    ----------
    manifest : Manifest
    images : mapping
        What the network took, in the units of methods; of the inversion 'field' (ppm).
    mask : ndarray of bool
    grid : Grid
        Of the series.
    field_strength : float
        B0 (T), NaN where it is not known.
    values : ndarray
        The result, of inversions susceptibility (ppm); read of these alone.
    """
    known, flags = manifest.training, []
    if known.voxel_size:
        low, high = known.voxel_size
        odd = [v for v in grid.voxel_size if not low * (1 - ROUNDING) <= v <= high * (1 + ROUNDING)]
        if odd:
            flags.append(
                f'The voxels are {size_text(grid.voxel_size)} mm, those of its training '
                f'{_span(low, high)} mm.'
            )
    if known.field_strength:
        low, high = known.field_strength
        if not math.isfinite(field_strength):
            flags.append(f'The field strength is not known, that of its training is {_span(low, high)} T.')
        elif not low - 0.1 <= field_strength <= high + 0.1:
            flags.append(
                f'The field strength is {field_strength:.3g} T, that of its training {_span(low, high)} T.'
            )
    if known.b0_angle:
        low, high = known.b0_angle
        angle = math.degrees(math.acos(min(abs(grid.b0_dir[2]), 1.0)))
        if not low - 1 <= angle <= high + 1:
            flags.append(f'B0 is {angle:.0f}° off the third axis, in its training {_span(low, high)}°.')
    for name, span in known.values:
        if name in images:
            flags += _amplitude(manifest, name, span, images[name][mask], field_strength)
    if manifest.step == 'inversion' and known.residual is not None:
        left = residual(values, images['field'], mask, grid)
        if left > known.residual:
            flags.append(
                f'The field of its susceptibility differs from the local field by {left:.0%} of it; '
                f'{known.residual:.0%} '
                'is the most that its author saw.'
            )
    return flags


def findings_of(record: dict) -> list[dict]:
    """Findings for the report on a plug-in that ran: what it is, and each of its flags as a warning."""
    tiles = record['Tiles']
    said = f'{record["Name"]} {record["Version"]} ({record["Licence"]}) made this step ({record["Step"]})'
    if 'DiceWithDefault' in record:
        said += f'; its mask and the default one have a Dice overlap of {record["DiceWithDefault"]:.2f}'
    one = {
        'what': 'Plug-in',
        'found': f'{said}.',
        'action': 'Compare it with the classical map; cite it as its author asks.',
        'evidence': (
            f'{record["Citation"]}. SHA-256 {record["SHA256"]}, {record["Provider"]}, '
            f'{tiles} {"tile" if tiles == 1 else "tiles"} of {size_text(record["TileSize"])} voxels.'
        ),
        'level': 'info',
    }
    flags = [
        {
            'what': f'Plug-in {record["Name"]}',
            'found': flag,
            'action': 'Do not trust its map without a look at the classical one.',
            'evidence': 'This series differs from what the network was trained on.',
            'level': 'warning',
        }
        for flag in record['Flags']
    ]
    return [one, *flags]


def _amplitude(
    manifest: Manifest, name: str, span: tuple[float, float], image: np.ndarray, field_strength: float
):
    low, high = span
    # a network inside of descent may not take the field itself, which is in ppm then
    fitting = (one for one in manifest.channels if one.data == name)
    channel = next(fitting, Channel(name, 'ppm'))
    per_unit = float(channel.sign)
    if channel.unit in ('Hz', 'rad'):
        time = 1 / (2 * math.pi) if channel.unit == 'Hz' else channel.echo_time
        per_unit /= ppm_per_radian(field_strength, time)
    elif channel.unit == 'ppb':
        per_unit *= 1e3
    values = image * np.float32(per_unit)
    if channel.wrapped:
        values = wrap(values)
    beyond = float(np.mean((values < low) | (values > high)))
    if beyond > SHARE:
        yield (
            f'{beyond:.0%} of the voxels have {WORDS[name]} outside {_span(low, high)} {channel.unit}, the '
            'range of its training.'
        )


def residual(chi: np.ndarray, field: np.ndarray, mask: np.ndarray, grid: Grid) -> float:
    """Norm of D chi - f in the mask relative to that of f, both without their means."""
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)
    made = box.uncrop(convolve(box.crop(np.where(mask, chi, 0).astype(np.float32)), dipole))[mask]
    wanted = field[mask]
    misfit = (made - made.mean()) - (wanted - wanted.mean())
    scale = float(np.linalg.norm(wanted - wanted.mean()))
    return float(np.linalg.norm(misfit)) / scale if scale > 0 else 0.0


def _span(low: float, high: float):
    return f'{low:.3g}' if low == high else f'{low:.3g} to {high:.3g}'
