"""From the images of a series to what the network of a plug-in makes of them, and what to say of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bids_qsm.errors import UserError
from bids_qsm.plugins.flags import flags_of
from bids_qsm.plugins.frame import Frame, frame_of
from bids_qsm.plugins.manifest import Channel, Manifest, Scale, Triple
from bids_qsm.plugins.sandbox import Image, Job, Machine, run_network
from bids_qsm.plugins.tiles import Plan
from bids_qsm.recon.fourier import Box, convolve, dipole_kernel
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.inversion.noise_scale import PADDING, certainty, typical_noise
from bids_qsm.recon.magnitude import combine
from bids_qsm.recon.phase import wrap
from bids_qsm.recon.registry import call
from bids_qsm.recon.units import ppm_per_radian

STARTS: dict[str, dict[str, Any]] = {'tkd': {}, 'tv': {'tolerance': 0.002, 'max_iterations': 200}}
"""Methods that unrolled networks may start from, and their parameters: TV, for one, nearly converged."""


@dataclass(frozen=True)
class Outcome:
    """Result of a plug-in on the grid of the series, and its record for sidecars and the report."""

    values: np.ndarray
    record: dict


def apply(manifest: Manifest, model: bytes, data: Mapping[str, Any], machine: Machine) -> Outcome:
    """Run a plug-in on the images of a series.

    Parameters
    ----------
    manifest : Manifest
    model : bytes
        Content of its model.
    data : mapping
        What `bids_qsm.recon` gives to methods of the step: images of shape ``grid.shape`` (field and noise in
        ppm, r2star in 1/s), 'mask' (bool), 'grid', and 'field_strength' (T). Of the step 'mask' magnitude
        (4D) and quality; of the step 'separation' chi (ppm), r2prime (1/s) and magnitude (3D) too.

    Returns
    -------
    Outcome
        Susceptibility or local field (ppm, float32, 0 outside the mask), a mask (bool), or of the step
        'separation' both sources (ppm), the first axis.

    Raises
    ------
    UserError
        Where the model may not be run, or ended badly.
    """
    mask, images = _images(manifest, data)
    frame = frame_of(manifest, data['grid'], mask, manifest.tile.margin)
    inside = frame.mask_into(mask)
    if not inside.any():
        raise UserError(
            f'{manifest.title}: the mask is smaller than a voxel of the network; use another method.'
        )
    strength = data.get('field_strength') or math.nan
    taken = {
        name: frame.into(image, mask, order=1 if name == 'noise' else 3) for name, image in images.items()
    }
    network = Network(manifest, model, frame.grid, inside, strength, machine)
    found = unrolled(network, taken)[None] if manifest.unrolled else network(taken)
    values = np.stack([frame.out(one * inside, inside, mask) for one in found])
    if manifest.step != 'separation':
        values = values[0]
    if manifest.step == 'mask':
        values = values > manifest.output.threshold
    flags = flags_of(manifest, images, mask, data['grid'], strength, values)
    return Outcome(values, {**about(manifest), **network.facts, **_of_frame(frame), 'Flags': flags})


def about(manifest: Manifest) -> dict:
    """What sidecars say of a plug-in."""
    return {
        'Name': manifest.name,
        'Version': manifest.version,
        'Step': manifest.step,
        'Licence': manifest.licence,
        'Citation': manifest.citation,
        'SHA256': manifest.model.sha256,
    }


def _of_frame(frame: Frame):
    if not frame.is_resampled:
        return {}
    return {'ResampledTo': [round(size, 4) for size in frame.grid.voxel_size]}


def _images(manifest: Manifest, data: Mapping[str, Any]):
    """The mask of the network's domain, and the images that it takes, as methods have them."""
    names = [name for name in manifest.data if name not in ('mask', 'b0', 'dipole', 'x', 'gradient')]
    if manifest.step == 'mask':
        images = {name: combine(data[name]) if name == 'magnitude' else data[name] for name in names}
        return np.ones(data['grid'].shape, bool), images
    if manifest.unrolled:
        names = list(dict.fromkeys([*names, 'field', 'noise']))
    known = {name: data[name] for name in names if name != 'field'}
    if 'field' in names:
        total = data.get('total') if manifest.step == 'onestep' else None
        known['field'] = data['field'] if total is None else total
    missing = [name for name in names if known[name] is None]
    if missing:
        raise UserError(f'{manifest.title} needs {missing[0]}, which this series lacks; use another method.')
    return data['mask'], {name: known[name] for name in names}


class Network:
    """The network of a plug-in on one grid; called with images in the units of methods, it gives its output.

    ``facts`` say afterwards where it ran, and in how many tiles; ``held`` how many bytes its process held.
    """

    def __init__(
        self,
        manifest: Manifest,
        model: bytes,
        grid: Grid,
        mask: np.ndarray,
        field_strength: float,
        machine: Machine,
    ):
        self.manifest, self.model, self.grid, self.mask = manifest, model, grid, mask
        self.field_strength, self.machine = field_strength, machine
        self.facts: dict = {}
        self.held = 0
        tile = manifest.tile
        shape: Triple = (int(grid.shape[0]), int(grid.shape[1]), int(grid.shape[2]))
        self.plan = Plan(shape, tile.size or shape, tile.margin, tile.blend, tile.multiple)
        self.numbers = self.plan.needed(mask)

    def __call__(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Output (ppm, or a probability) of shape (channels, *``grid.shape``)."""
        given, of_field = [], Scale()
        for tensor in self.manifest.inputs:
            for channel in tensor.channels:
                if channel.data == 'b0':
                    given.append(Image(tensor.name, np.array(self.grid.b0_dir, np.float32), same=True))
                elif channel.data == 'dipole':
                    given.append(Image(tensor.name, full_dipole(self.plan.size, self.grid), same=True))
                else:
                    values = self.mask if channel.data == 'mask' else images[channel.data]
                    values, scale = self._normalised(channel, np.asarray(values, np.float32))
                    of_field = scale if channel.data == 'field' else of_field
                    given.append(Image(tensor.name, values))
        result, facts = run_network(
            Job(self.manifest, self.model, self.machine, given, self.plan, self.numbers)
        )
        assert result is not None  # there is a plan
        self.held = max(self.held, facts['held'])
        self.facts = {
            'Provider': facts['provider'],
            'OnnxRuntime': facts['onnxruntime'],
            'Tiles': len(self.numbers),
            'TileSize': list(self.plan.size),
        }
        for image, out in zip(result, self.manifest.output.channels, strict=True):
            scale = out.scale if isinstance(out.scale, Scale) else Scale(0.0, of_field.sd)
            image *= scale.sd * out.sign
            image += scale.mean * out.sign
            image /= np.float32(self.per_unit(out.unit, out.echo_time))
        return result

    def _normalised(self, channel: Channel, values: np.ndarray):
        """A channel as the network takes it, and the mean and standard deviation that were taken off."""
        # what is not given outside the mask stays 0 there in the unit of the image
        values = values * np.float32(channel.sign * self.per_unit(channel.unit, channel.echo_time))
        if channel.wrapped:
            values = wrap(values)
        if channel.data == 'mask':
            return values, Scale()
        inside = values[self.mask]
        if channel.normalise == 'volume':
            mean, sd = float(inside.mean(dtype=float)), float(inside.std(dtype=float))
            scale = Scale(mean, sd if sd > 0 else 1.0)
        elif channel.normalise == 'p99':
            top = float(np.percentile(inside, 99))
            scale = Scale(0.0, top if top > 0 else 1.0)
        else:
            assert isinstance(channel.normalise, Scale)  # there are no other words
            scale = channel.normalise
        values -= np.float32(scale.mean)
        values /= np.float32(scale.sd)
        # of the step mask it is the whole volume
        values *= self.mask
        return values, scale

    def per_unit(self, unit: str, echo_time: float) -> float:
        """How many ``unit`` are 1 ppm."""
        if unit in ('Hz', 'rad'):
            if not self.field_strength > 0:
                raise UserError(
                    f'{self.manifest.title} takes or gives a field in {unit}, but the field strength is not '
                    'known; '
                    'add MagneticFieldStrength to the sidecars.'
                )
            time = 1 / (2 * math.pi) if unit == 'Hz' else echo_time
            return 1 / ppm_per_radian(self.field_strength, time)
        return 1e3 if unit == 'ppb' else 1.0


def unrolled(network: Network, images: Mapping[str, np.ndarray]) -> np.ndarray:
    r"""Descent on the fidelity, with a network after each step; the physics is of the full grid.

    .. math:: x_{n+1} = \mathrm{net}(x_n - t \, M B W (D x_n - f)), \quad
              B = D^T \text{ or } D^T / (D^T D + \mathrm{damping})

    M is the mask, W the weights (at most 1), D the dipole on the padded box. Damping makes gradient descent
    into that of Levenberg and Marquardt (without W), which needs fewer steps near the cone of the dipole. A
    network with the input 'gradient' gets :math:`x_n` and what t multiplies instead, and makes the step
    itself.

    Parameters
    ----------
    network : Network
    images : mapping
        'field' and 'noise' (ppm), and what else the network takes.

    Returns
    -------
    ndarray of float32
        Susceptibility (ppm), 0 outside the mask.
    """
    how, mask, grid = network.manifest.unrolled, network.mask, network.grid
    assert how is not None  # it is only called for networks that are
    field, noise = images['field'], images['noise']
    weight = mask.astype(np.float32)
    if how.weights == 'noise':
        weight = certainty(noise, mask, typical_noise(noise, field, mask)).astype(np.float32)
    box = Box.around(mask, grid, padding=PADDING)
    dipole = dipole_kernel(box.shape, grid.voxel_size, grid.b0_dir)

    # the dipole is real and even: it is its own adjoint
    back = dipole / (dipole**2 + np.float32(how.damping)) if how.damping else dipole

    def through(kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
        return box.uncrop(convolve(box.crop(values), kernel))

    x = np.zeros_like(field)
    if how.start in STARTS:
        data = {'field': field, 'mask': mask, 'noise': noise, 'grid': grid}
        x = call(INVERSION[how.start], data, STARTS[how.start])
    takes_gradient = 'gradient' in network.manifest.data
    for _ in range(how.iterations):
        gradient = mask * through(back, weight * (through(dipole, x) - field))
        if not takes_gradient:
            x = x - np.float32(how.step_size) * gradient
        x = mask * network({**images, 'x': x, 'gradient': gradient})[0]
    return x


def full_dipole(shape: tuple[int, ...], grid: Grid) -> np.ndarray:
    """Unit dipole of all frequencies, in the order of ``numpy.fft.fftn``, for tiles of ``shape``."""
    half = dipole_kernel(shape, grid.voxel_size, grid.b0_dir)
    found = np.empty(shape, np.float32)
    found[..., : half.shape[2]] = half
    rest = shape[2] - half.shape[2]
    if rest:
        # D(-k) = D(k)
        mirrored = half[:, :, rest:0:-1]
        rows, columns = (-np.arange(n) % n for n in shape[:2])
        found[..., half.shape[2] :] = mirrored[np.ix_(rows, columns)]
    return found


def golden_network(manifest: Manifest, model: bytes, shape: Triple, machine: Machine) -> Network:
    """The network on the grid of its golden data: the voxel size of the training, B0 along the third axis."""
    low, high = manifest.training.voxel_size or (1.0, 1.0)
    size = manifest.resample_mm or ((low + high) / 2,) * 3
    strengths = manifest.training.field_strength or (3.0, 3.0)
    whole = replace(manifest, tile=replace(manifest.tile, size=None))
    return Network(whole, model, Grid(shape, size), np.ones(shape, bool), sum(strengths) / 2, machine)


def as_stored(manifest: Manifest) -> Manifest:
    """The manifest without the wrapping of channels that golden data hold wrapped.

    To wrap them again would turn what is +pi into -pi, which an author may well have stored.
    """
    first = {one.data: one for one in reversed(manifest.channels)}

    def stored(one: Channel):
        is_it = one == replace(first[one.data], normalise=one.normalise)
        return replace(one, wrapped=False) if is_it else one

    inputs = [replace(one, channels=tuple(map(stored, one.channels))) for one in manifest.inputs]
    return replace(manifest, inputs=tuple(inputs))


def in_own_units(network: Network, name: str, values: np.ndarray) -> np.ndarray:
    """Golden data (in the unit of its channel, with its sign) in the unit of methods."""
    channel = next(one for one in network.manifest.channels if one.data == name)
    return values / np.float32(channel.sign * network.per_unit(channel.unit, channel.echo_time))
