"""Figures of the report as interfaces: load images and tables, draw, write PNG or SVG."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.interfaces.io import load_mask
from bids_qsm.plotting.maps import ANATOMY, plot_flicker, plot_map, plot_outlines

SHOWN = [port for port, one in PRODUCTS.items() if one.look is not None]


class _FigureOutputSpec(TraitedSpec):
    figure = File(exists=True, desc='PNG or SVG')


class _PlotMapInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc='map; of a 4D series three echoes are shown')
    mask = File(exists=True, desc='bounds the slices and blanks the outside')
    kind = traits.Enum(*SHOWN, mandatory=True, desc='map that it is: sets name, unit, colours and window')
    title = traits.Str('', usedefault=True)


class PlotMap(SimpleInterface):
    """Draw a map as a mosaic with its colour bar (PNG)."""

    input_spec, output_spec = _PlotMapInputSpec, _FigureOutputSpec

    def _run_interface(self, runtime):
        data, affine = _load(self.inputs.image)
        png = plot_map(
            data,
            affine,
            look=PRODUCTS[self.inputs.kind].look,
            mask=_optional(self.inputs.mask),
            title=self.inputs.title,
        )
        self._results['figure'] = _write(runtime.cwd, f'{self.inputs.kind}.png', png)
        return runtime


class _PlotOutlinesInputSpec(BaseInterfaceInputSpec):
    image = File(exists=True, mandatory=True, desc='background')
    mask = File(exists=True, desc='drawn as one outline')
    dseg = File(exists=True, desc='labels, each region drawn as an outline')
    labels = File(exists=True, desc='TSV with index and region (or name)')
    kind = traits.Enum(*SHOWN, desc='map that the background is; without one an anatomical image')
    title = traits.Str('', usedefault=True)


class PlotOutlines(SimpleInterface):
    """Draw the outlines of a mask and of an atlas over an image (PNG)."""

    input_spec, output_spec = _PlotOutlinesInputSpec, _FigureOutputSpec

    def _run_interface(self, runtime):
        data, affine = _load(self.inputs.image)
        dseg = labels = None
        if isdefined(self.inputs.dseg):
            dseg = np.asanyarray(nib.load(self.inputs.dseg).dataobj).astype(np.int32)
        if isdefined(self.inputs.labels):
            labels = pd.read_csv(self.inputs.labels, sep='\t')
        look = PRODUCTS[self.inputs.kind].look if isdefined(self.inputs.kind) else ANATOMY
        png = plot_outlines(
            data, affine, look=look, mask=_optional(self.inputs.mask), dseg=dseg, labels=labels,
            title=self.inputs.title,
        )  # fmt: skip
        self._results['figure'] = _write(runtime.cwd, 'outlines.png', png)
        return runtime


class _PlotFlickerInputSpec(BaseInterfaceInputSpec):
    fixed = File(exists=True, mandatory=True)
    moving = File(exists=True, mandatory=True, desc='on the grid of fixed')
    mask = File(exists=True, desc='outlined in both, on the grid of fixed')
    title = traits.Str('', usedefault=True)
    labels = traits.List(
        traits.Str, ['fixed', 'moving'], usedefault=True, minlen=2, maxlen=2, desc='names of the two'
    )


class PlotFlicker(SimpleInterface):
    """Draw two aligned images that take turns (animated SVG)."""

    input_spec, output_spec = _PlotFlickerInputSpec, _FigureOutputSpec

    def _run_interface(self, runtime):
        fixed, affine = _load(self.inputs.fixed)
        moving, _ = _load(self.inputs.moving)
        svg = plot_flicker(
            fixed, moving, affine, mask=_optional(self.inputs.mask), labels=self.inputs.labels,
            title=self.inputs.title,
        )  # fmt: skip
        self._results['figure'] = _write(runtime.cwd, 'flicker.svg', svg.encode())
        return runtime


def _load(path):
    # figures need the directions of all axes, which Grid does not keep
    image = nib.load(path)
    return np.asanyarray(image.dataobj).astype(np.float32), image.affine


def _optional(path):
    return load_mask(path) if isdefined(path) else None


def _write(cwd, name, content):
    path = Path(cwd) / name
    path.write_bytes(content)
    return str(path)
