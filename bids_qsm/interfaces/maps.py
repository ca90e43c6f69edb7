"""Interfaces of maps that another tool made."""

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

from bids_qsm.interfaces.io import load, load_mask, read, save_like
from bids_qsm.recon.given import contrast, field_noise, where_given
from bids_qsm.recon.magnitude import combine

MAPS = ('chi', 'local_field', 'field', 'r2star')


class _ReadMapsInputSpec(BaseInterfaceInputSpec):
    chi = File(exists=True, desc='susceptibility')
    local_field = File(exists=True)
    field = File(exists=True, desc='total field')
    r2star = File(exists=True)
    mask = File(exists=True, desc='mask on the same grid')
    magnitude = InputMultiObject(File(exists=True), desc='magnitude of each echo on the same grid')
    factors = traits.Dict(mandatory=True, desc='map -> what its values are multiplied by to get ppm or 1/s')


class _ReadMapsOutputSpec(TraitedSpec):
    chi = File(exists=True, desc='ppm')
    local_field = File(exists=True, desc='ppm')
    field = File(exists=True, desc='ppm')
    r2star = File(exists=True, desc='1/s')
    support = File(exists=True, desc='where the first of these maps is given')
    noise = File(exists=True, desc='standard deviation of a field (ppm)')
    magnitude = File(exists=True, desc='magnitude, echoes last')
    combined = File(exists=True, desc='combined magnitude or, without one, an image of the first map')
    first_echo = File(exists=True, desc='magnitude of the first echo, or the same image')
    notes = File(exists=True, desc='findings (JSON): none')


class ReadMaps(SimpleInterface):
    """Bring maps of another tool to ppm and 1/s, and find where they hold."""

    input_spec, output_spec = _ReadMapsInputSpec, _ReadMapsOutputSpec

    def _run_interface(self, runtime):
        inputs, cwd = self.inputs, runtime.cwd
        mask = load_mask(inputs.mask) if isdefined(inputs.mask) else None
        paths = {name: getattr(inputs, name) for name in MAPS if isdefined(getattr(inputs, name))}
        data, grids = {}, {}
        for name, path in paths.items():
            data[name], grids[name] = load(path)
        first = next(iter(data))
        support, reference = where_given(data[first], mask), paths[first]
        for name, values in data.items():
            data[name] = np.nan_to_num(values * np.float32(inputs.factors[name]), posinf=0, neginf=0)
            self._results[name] = save_like(data[name], reference, cwd, f'{name}.nii')
        self._results['support'] = save_like(support, reference, cwd, 'support.nii')
        if isdefined(inputs.magnitude):
            echoes = np.stack([read(path)[0].astype(np.float32) for path in inputs.magnitude], -1)
            images = {'combined': combine(echoes), 'first_echo': echoes[..., 0], 'magnitude': echoes}
        else:
            image = contrast(data[first], support, grids[first], kind=first)
            images = {'combined': image, 'first_echo': image}
        for name, image in images.items():
            self._results[name] = save_like(image, reference, cwd, f'{name}.nii')
        if first in ('local_field', 'field'):
            magnitude = images['combined'] if isdefined(inputs.magnitude) else None
            noise = field_noise(data[first], support, magnitude)
            self._results['noise'] = save_like(noise, reference, cwd, 'noise.nii')
        notes = Path(cwd) / 'notes.json'
        notes.write_text(json.dumps({'findings': []}) + '\n')
        self._results['notes'] = str(notes)
        return runtime


class _MaskMapsInputSpec(BaseInterfaceInputSpec):
    support = File(exists=True, mandatory=True, desc='where the maps are given')
    brain = File(exists=True, desc='mask to keep them to, on the same grid')
    chi = File(exists=True, desc='susceptibility (ppm)')
    r2star = File(exists=True, desc='R2* (1/s)')
    reference = traits.Str(desc='region whose susceptibility is zero, where the sidecar says it')


class _MaskMapsOutputSpec(TraitedSpec):
    mask = File(exists=True)
    chi = File(exists=True, desc='0 outside the mask')
    r2star = File(exists=True, desc='0 outside the mask')
    note = File(exists=True, desc='Reference- Region, Description, Offset (ppm), Voxels (JSON)')


class MaskMaps(SimpleInterface):
    """Keep given maps to their mask, and state what their susceptibility is relative to."""

    input_spec, output_spec = _MaskMapsInputSpec, _MaskMapsOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        mask = load_mask(inputs.support)
        if isdefined(inputs.brain):
            mask &= load_mask(inputs.brain)
        self._results['mask'] = save_like(mask, inputs.support, runtime.cwd, 'mask.nii')
        for name in ('chi', 'r2star'):
            path = getattr(inputs, name)
            if isdefined(path):
                values = np.where(mask, load(path)[0], 0)
                self._results[name] = save_like(values, path, runtime.cwd, f'{name}.nii')
        region = inputs.reference
        note = {
            'ReferenceRegion': region or 'as given',
            'ReferenceDescription': f'Susceptibility is relative to {region}, as the sidecar of the map says.'
            if region
            else 'Susceptibility is as it was given; its sidecar does not say what it is relative to.',
            'ReferenceOffset': 0.0,
            'ReferenceVoxels': 0,
        }
        path = Path(runtime.cwd) / 'reference.json'
        path.write_text(json.dumps(note, indent=2) + '\n')
        self._results['note'] = str(path)
        return runtime
