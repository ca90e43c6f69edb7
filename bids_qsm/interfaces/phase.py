"""Interfaces that bring phase to one convention and take its offset off."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import load, load_mask, save_like
from bids_qsm.recon.conditioning import condition, from_real_imaginary
from bids_qsm.recon.phase import combine_coils, remove_offset
from bids_qsm.recon.scaling import phase_to_radians

_LARGEST = 1e15
"""Of a magnitude, whose square must be a number of single precision."""


def _load_echoes(paths):
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


class _ConditionPhaseInputSpec(BaseInterfaceInputSpec):
    magnitude = InputMultiObject(File(exists=True), desc='magnitude images by echo', xor=['real'])
    phase = InputMultiObject(
        File(exists=True), desc='phase images by echo, as stored', requires=['magnitude']
    )
    real = InputMultiObject(File(exists=True), desc='real images by echo', requires=['imag'])
    imag = InputMultiObject(File(exists=True), desc='imaginary images by echo', requires=['real'])
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')
    coils = traits.Int(1, usedefault=True, desc='receive coils stored one by one, in turn at each echo time')
    manufacturer = traits.Str('', usedefault=True, desc='decides the sign where the data cannot')
    scaling = traits.Str('auto', usedefault=True, desc="'auto', 'radians', 'degrees' or 'LOW,HIGH'")
    sign = traits.Enum('auto', 'positive', 'negative', usedefault=True, desc='does phase grow with the field')
    slice_flip = traits.Enum('auto', 'yes', 'no', usedefault=True, desc='is every second slice negated')
    bipolar = traits.Enum('auto', 'yes', 'no', usedefault=True, desc='are even echoes read backwards')


class _ConditionPhaseOutputSpec(TraitedSpec):
    magnitude = File(exists=True, desc='magnitude, echoes last')
    phase = File(exists=True, desc='phase (rad), growing with the field, echoes last')
    notes = File(exists=True, desc='what was found and done (JSON)')


class ConditionPhase(SimpleInterface):
    """Bring the images of any vendor to one convention, and note what was found."""

    input_spec, output_spec = _ConditionPhaseInputSpec, _ConditionPhaseOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        choices = {name: getattr(inputs, name) for name in ('scaling', 'sign', 'slice_flip', 'bipolar')}
        if isdefined(inputs.real):
            first = inputs.real[0]
            real, grid = _load_echoes(inputs.real)
            magnitude, phase = from_real_imaginary(real, _load_echoes(inputs.imag)[0])
            choices['scaling'] = 'radians'
        elif isdefined(inputs.phase):
            first = inputs.magnitude[0]
            magnitude, grid = _load_echoes(inputs.magnitude)
            phase, _ = _load_echoes(inputs.phase)
        else:
            raise UserError(
                'Neither phase nor real and imaginary images were given; the field cannot be mapped.'
            )
        volumes = len(inputs.echo_times) * inputs.coils
        if not magnitude.shape == phase.shape == (*grid.shape, volumes):
            raise UserError(
                f'{first}: magnitude {magnitude.shape} and phase {phase.shape} must have one size and one '
                f'volume for each of the {volumes} echoes and coils.'
            )
        peak = float(np.abs(magnitude).max(where=np.isfinite(magnitude), initial=0))
        if peak > _LARGEST:
            raise UserError(f'{first} holds values of {peak:.3g}, which no scanner stores; convert it again.')
        findings = []
        if inputs.coils > 1:
            phase, note = phase_to_radians(phase, scaling=choices['scaling'])
            shape = (*grid.shape, len(inputs.echo_times), inputs.coils)
            magnitude, phase = combine_coils(
                np.nan_to_num(magnitude).reshape(shape), phase.reshape(shape), inputs.echo_times, grid
            )
            choices['scaling'] = 'radians'
            findings = [
                {
                    'what': 'Receive coils',
                    'found': f'{inputs.coils} coils stored one by one. {note}',
                    'action': 'Combined, each without its own phase offset.',
                    'evidence': 'Each echo time recurs as often.',
                }
            ]
        magnitude, phase, found = condition(
            magnitude, phase, inputs.echo_times, grid, manufacturer=inputs.manufacturer, **choices
        )
        self._results['magnitude'] = save_like(magnitude, first, runtime.cwd, 'magnitude.nii')
        self._results['phase'] = save_like(phase, first, runtime.cwd, 'phase.nii')
        notes = Path(runtime.cwd) / 'notes.json'
        notes.write_text(json.dumps({'findings': findings + found}, indent=2) + '\n')
        self._results['notes'] = str(notes)
        return runtime


class _RemoveOffsetInputSpec(BaseInterfaceInputSpec):
    magnitude = File(exists=True, mandatory=True, desc='magnitude, echoes last')
    phase = File(exists=True, mandatory=True, desc='phase (rad), echoes last')
    mask = File(exists=True, desc='where to estimate; without it, wherever there is signal')
    echo_times = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')


class _RemoveOffsetOutputSpec(TraitedSpec):
    phase = File(exists=True, desc='phase without offset (rad), echoes last')
    offset = File(exists=True, desc='phase at TE = 0 (rad)')


class RemoveOffset(SimpleInterface):
    """Take the phase at TE = 0 off every echo."""

    input_spec, output_spec = _RemoveOffsetInputSpec, _RemoveOffsetOutputSpec

    def _run_interface(self, runtime):
        phase, grid = load(self.inputs.phase)
        magnitude, _ = load(self.inputs.magnitude)
        mask = load_mask(self.inputs.mask) if isdefined(self.inputs.mask) else None
        phase, offset = remove_offset(phase, magnitude, mask, self.inputs.echo_times, grid)
        self._results['phase'] = save_like(phase, self.inputs.phase, runtime.cwd, 'phase.nii')
        self._results['offset'] = save_like(offset, self.inputs.phase, runtime.cwd, 'offset.nii')
        return runtime
