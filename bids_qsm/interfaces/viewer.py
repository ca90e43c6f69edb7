"""Volumes for the viewer of the report."""

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from nipype.interfaces.base.support import Bunch
from nipype.interfaces.io import add_traits

from bids_qsm.derivatives.tables import read_labels
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import read, read_mask, without_frames
from bids_qsm.plotting.layers import ShownLabels, ShownMap, pack_layers
from bids_qsm.plotting.maps import Look
from bids_qsm.plotting.mosaic import spacing_of


class _PackVolumesInputSpec(DynamicTraitedSpec):
    shown_maps = traits.List(traits.Dict, desc='of each map: port, symbol, and look (as Look takes it)')
    shown_labels = traits.List(
        traits.Dict, desc='of each image of labels: port, port of its table or empty, title, stem'
    )
    room = traits.Int(mandatory=True, desc='bytes')
    may_leave_out = traits.Bool(False, usedefault=True, desc='whether maps that do not fit are left out')
    mask = File(exists=True, mandatory=True, desc='where susceptibility is given')


class _PackVolumesOutputSpec(TraitedSpec):
    volumes = File(exists=True, desc='JSON, see `bids_qsm.plotting.layers.pack_layers`')


class PackVolumes(SimpleInterface):
    """Pack maps and labels on one grid for the viewer.

    It has an input port for each of ``shown_maps`` and ``shown_labels``, and for the tables of these. What is
    not there, as an application did not make it, is left out; without anything there is no output.
    """

    input_spec, output_spec = _PackVolumesInputSpec, _PackVolumesOutputSpec

    def __init__(self, maps: list[dict] | None = None, labels: list[dict] | None = None, **inputs: object):
        super().__init__(shown_maps=maps or [], shown_labels=labels or [], **inputs)
        ports = [one['port'] for one in (*self.inputs.shown_maps, *self.inputs.shown_labels)]
        ports += [one['table'] for one in self.inputs.shown_labels if one['table']]
        add_traits(self.inputs, sorted(ports), File(exists=True))

    def _run_interface(self, runtime: Bunch):
        mask, affine = read_mask(self.inputs.mask)
        maps, labels = (
            [one for one in listed if isdefined(getattr(self.inputs, one['port']))]
            for listed in (self.inputs.shown_maps, self.inputs.shown_labels)
        )
        if not mask.any() or not (maps or labels):
            return runtime
        pack = pack_layers(
            (
                ShownMap(one['port'], self._volume(one, mask, affine), Look(**one['look']), one['symbol'])
                for one in maps
            ),
            (
                ShownLabels(
                    one['port'], one['title'], self._volume(one, mask, affine), self._table(one), one['stem']
                )
                for one in labels
            ),
            mask,
            affine,
            room=self.inputs.room,
            may_leave_out=self.inputs.may_leave_out,
        )
        path = Path(runtime.cwd) / 'volumes.json'
        path.write_text(json.dumps(pack))
        self._results['volumes'] = str(path)
        return runtime

    def _volume(self, one: dict, mask: np.ndarray, affine: np.ndarray):
        path = getattr(self.inputs, one['port'])
        data, own = read(path)
        data = without_frames(data)
        near = np.allclose(own, affine, rtol=1e-4, atol=0.01 * spacing_of(affine).min())
        if data.shape != mask.shape or not near:
            raise UserError(
                f'{path} is not on the grid of the mask ({self.inputs.mask}), so the viewer cannot show it; '
                'run again with an empty --work-dir.'
            )
        return data

    def _table(self, one: dict):
        table = getattr(self.inputs, one['table'], None) if one['table'] else None
        return read_labels(table) if table is not None and isdefined(table) else None
