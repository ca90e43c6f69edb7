"""Maps that another tool made."""

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits

from bids_qsm.interfaces.io import load_volume
from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, outputs, record, volume
from bids_qsm.recon.given import contrast, field_noise, where_given
from bids_qsm.recon.magnitude import combine

MAPS = ('chi', 'local_field', 'field', 'r2star')


class ReadMaps(Step):
    """Bring maps of another tool to ppm and 1/s, and find where they hold."""

    input_spec = inputs(
        chi=volume('susceptibility', optional=True),
        local_field=volume('local field', optional=True),
        field=volume('total field', optional=True),
        r2star=volume('R2*', optional=True),
        mask=mask('mask on the same grid', optional=True),
        magnitude=InputMultiObject(File(exists=True), desc='magnitude of each echo on the same grid'),
        factors=traits.Dict(
            mandatory=True, desc='map -> what its values are multiplied by to get ppm or 1/s'
        ),
    )
    output_spec = outputs(
        chi=image('susceptibility (ppm)'),
        local_field=image('local field (ppm)'),
        field=image('total field (ppm)'),
        r2star=image('R2* (1/s)'),
        support=mask('where the first of these maps is given'),
        noise=image('standard deviation of a field (ppm)'),
        magnitude=image('magnitude, echoes last'),
        combined=image('combined magnitude or, without one, an image of the first map'),
        first_echo=image('magnitude of the first echo, or the same image'),
        notes=record('findings: none'),
    )

    def compute(self, data: Data):
        first = next(name for name in MAPS if data[name] is not None)
        support = where_given(data[first], data['mask'])
        maps = {}
        for name in MAPS:
            if data[name] is not None:
                scaled = data[name] * np.float32(data['factors'][name])
                maps[name] = np.nan_to_num(scaled, posinf=0, neginf=0)
        if data['magnitude']:
            echoes = np.stack([load_volume(path)[0] for path in data['magnitude']], -1)
            combined, first_echo = combine(echoes), echoes[..., 0]
        else:
            echoes = None
            combined = first_echo = contrast(maps[first], support, data['grid'], kind=first)
        noise = None
        if first in ('local_field', 'field'):
            noise = field_noise(maps[first], support, None if echoes is None else combined)
        found = [maps.get(name) for name in MAPS]
        return *found, support, noise, echoes, combined, first_echo, {'findings': []}


class MaskMaps(Step):
    """Keep given maps to their mask, and state what their susceptibility is relative to."""

    input_spec = inputs(
        support=mask('where the maps are given'),
        brain=mask('mask to keep them to, on the same grid', optional=True),
        chi=image('susceptibility (ppm)', optional=True),
        r2star=image('R2* (1/s)', optional=True),
        reference=traits.Str(desc='region whose susceptibility is zero, where the sidecar says it'),
    )
    output_spec = outputs(
        mask=mask('where the maps hold'),
        chi=image('susceptibility (ppm), 0 outside the mask'),
        r2star=image('R2* (1/s), 0 outside the mask'),
        note=record('Reference- Region, Description, Offset (ppm), Voxels'),
    )

    def compute(self, data: Data):
        inside, region = data['support'], data['reference']
        if data['brain'] is not None:
            inside = inside & data['brain']
        said = f'Susceptibility is relative to {region}, as the sidecar of the map says.'
        unknown = 'Susceptibility is as it was given; its sidecar does not say what it is relative to.'
        note = {
            'ReferenceRegion': region or 'as given',
            'ReferenceDescription': said if region else unknown,
            'ReferenceOffset': 0.0,
            'ReferenceVoxels': 0,
        }
        kept = [None if data[name] is None else np.where(inside, data[name], 0) for name in ('chi', 'r2star')]
        return inside, *kept, note
