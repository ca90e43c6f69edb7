"""Phase in one convention, without its offset."""

import nibabel as nib
import numpy as np
from nipype.interfaces.base import Bunch, File, InputMultiObject, traits

from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import load, save
from bids_qsm.interfaces.step import ECHO_TIMES, Data, Step, image, inputs, mask, outputs, record
from bids_qsm.recon.conditioning import condition, from_real_imaginary
from bids_qsm.recon.phase import combine_coils, remove_offset
from bids_qsm.recon.registry import call
from bids_qsm.recon.resolution import coarsen
from bids_qsm.recon.scaling import phase_to_radians

_LARGEST = 1e15
"""Largest magnitude: its square must be finite in single precision."""


def _load_echoes(paths: list[str]):
    """Stack single-echo images, or take a 4D one as it is: (array (x, y, z, echo), Grid)."""
    volumes, grid = [], None
    for path in paths:
        volume, own = load(path)
        if grid is None:
            grid = own
        elif own.shape != grid.shape:
            raise UserError(
                f'{path} has the size {own.shape}, but {paths[0]} has {grid.shape}: echoes must match.'
            )
        volumes.append(volume[..., None] if volume.ndim == 3 else volume)
    if len(volumes) == 1:
        return volumes[0], grid
    stack = np.empty((*grid.shape, sum(v.shape[3] for v in volumes)), np.float32, order='F')
    np.concatenate(volumes, axis=3, out=stack)
    return stack, grid


def _echoes(desc: str, **rules: list[str]):
    return InputMultiObject(File(exists=True), desc=desc, **rules)


class ConditionPhase(Step):
    """Bring the images of any vendor to one convention, and note what was found."""

    input_spec = inputs(
        magnitude=_echoes('magnitude images by echo', xor=['real']),
        phase=_echoes('phase images by echo, as stored', requires=['magnitude']),
        real=_echoes('real images by echo', requires=['imag']),
        imag=_echoes('imaginary images by echo', requires=['real']),
        echo_times=ECHO_TIMES,
        coils=traits.Int(
            1, usedefault=True, desc='receive coils stored one by one, in turn at each echo time'
        ),
        field_strength=traits.Float(desc='B0 (T)'),
        said=traits.Str('', usedefault=True, desc='what speaks for high-pass filtering'),
        manufacturer=traits.Str('', usedefault=True, desc='decides the sign where the data cannot'),
        scaling=traits.Str('auto', usedefault=True, desc="'auto', 'radians', 'degrees' or 'LOW,HIGH'"),
        sign=traits.Enum(
            *('auto', 'positive', 'negative'), usedefault=True, desc='does phase grow with the field'
        ),
        slice_flip=traits.Enum('auto', 'yes', 'no', usedefault=True, desc='is every second slice negated'),
        bipolar=traits.Enum('auto', 'yes', 'no', usedefault=True, desc='are even echoes read backwards'),
        earlier=record('what was found before', optional=True),
        filtered=traits.Enum(
            'stop', 'accept', usedefault=True, desc='what to do with phase that was high-pass filtered'
        ),
    )
    output_spec = outputs(
        magnitude=image('magnitude, echoes last'),
        phase=image('phase (rad), growing with the field, echoes last'),
        notes=record('what was found and done'),
    )

    def compute(self, data: Data):
        inputs = self.inputs
        findings = [*data['earlier']['findings']] if data['earlier'] else []
        choices = {
            name: data[name] for name in ('scaling', 'sign', 'slice_flip', 'bipolar', 'said', 'filtered')
        }
        if data['real']:
            real, grid = _load_echoes(data['real'])
            magnitude, phase = from_real_imaginary(real, _load_echoes(data['imag'])[0])
            choices['scaling'] = 'radians'
        elif data['phase']:
            magnitude, grid = _load_echoes(data['magnitude'])
            phase, _ = _load_echoes(data['phase'])
        else:
            raise UserError(
                'Neither phase nor real and imaginary images were given; the field cannot be mapped.'
            )
        volumes = len(inputs.echo_times) * inputs.coils
        if not magnitude.shape == phase.shape == (*grid.shape, volumes):
            raise UserError(
                f'{data.first}: magnitude {magnitude.shape} and phase {phase.shape} must have one size and '
                f'one volume for each of the {volumes} echoes and coils.'
            )
        peak = float(np.abs(magnitude).max(where=np.isfinite(magnitude), initial=0))
        if peak > _LARGEST:
            raise UserError(
                f'{data.first} holds values of {peak:.3g}, which no scanner stores; convert it again.'
            )
        if inputs.coils > 1:
            phase, note = phase_to_radians(phase, scaling=choices['scaling'])
            shape = (*grid.shape, len(inputs.echo_times), inputs.coils)
            magnitude, phase = combine_coils(
                np.nan_to_num(magnitude).reshape(shape), phase.reshape(shape), inputs.echo_times, grid
            )
            choices['scaling'] = 'radians'
            findings += [
                {
                    'what': 'Receive coils',
                    'found': f'{inputs.coils} coils stored one by one. {note}',
                    'action': 'Combined, each without its own phase offset.',
                    'evidence': 'Each echo time recurs as often.',
                }
            ]
        magnitude, phase, found = condition(
            magnitude,
            phase,
            inputs.echo_times,
            grid,
            field_strength=data['field_strength'],
            manufacturer=inputs.manufacturer,
            **choices,
        )
        known = {one['what'] for one in findings}
        findings += [one for one in found if one['what'] not in known]
        return magnitude, phase, {'findings': findings}


class Coarsen(Step):
    """Bring complex images to larger voxels."""

    input_spec = inputs(
        magnitude=image('magnitude, echoes last'),
        phase=image('phase (rad), echoes last'),
        voxel_size=traits.List(traits.Float, mandatory=True, desc='of the voxels to make (mm)'),
    )
    output_spec = outputs(magnitude=image('magnitude, echoes last'), phase=image('phase (rad), echoes last'))

    def _run_interface(self, runtime: Bunch):
        data = Data(self.inputs)
        magnitude, phase, to_old = coarsen(
            data['magnitude'], data['phase'], data['grid'], self.inputs.voxel_size
        )
        # both affines stay, as B0 is known from that of the scanner
        header = nib.load(data.first).header.copy()
        for read, write in ((header.get_sform, header.set_sform), (header.get_qform, header.set_qform)):
            affine, code = read(coded=True)
            if affine is not None:
                write(affine @ to_old, code)
        for name, values in (('magnitude', magnitude), ('phase', phase)):
            affine = data['magnitude_affine'] @ to_old
            self._results[name] = str(save(values, affine, runtime.cwd, f'{name}.nii', header=header))
        return runtime


class RemoveOffset(Step):
    """Take the phase at TE = 0 off every echo."""

    input_spec = inputs(
        phase=image('phase (rad), echoes last'),
        magnitude=image('magnitude, echoes last'),
        mask=mask('where to estimate; without it, wherever there is signal', optional=True),
        echo_times=ECHO_TIMES,
    )
    output_spec = outputs(
        phase=image('phase without offset (rad), echoes last'), offset=image('phase at TE = 0 (rad)')
    )

    def compute(self, data: Data):
        return call(remove_offset, data, {})
