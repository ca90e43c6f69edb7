"""Figures of the report."""

from pathlib import Path

import numpy as np
from nipype.interfaces.base import File, traits

from bids_qsm.derivatives.products import LOOKS
from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, outputs, table
from bids_qsm.plotting.maps import ANATOMY, plot_flicker, plot_map, plot_outlines


def _figure(extension: str):
    def save(content: bytes, _: str, folder: Path, name: str):
        path = folder / f'{name}{extension}'
        path.write_bytes(content)
        return path

    return outputs(figure=File(exists=True, desc=extension, save=save))


class PlotMap(Step):
    """Draw a map as a mosaic with its colour bar."""

    input_spec = inputs(
        image=image('map; of a 4D series three echoes are shown'),
        mask=mask('bounds the slices and blanks the outside', optional=True),
        kind=traits.Enum(*LOOKS, mandatory=True, desc='map that it is: sets name, unit, colours and window'),
        title=traits.Str('', usedefault=True),
    )
    output_spec = _figure('.png')

    def compute(self, data: Data):
        look = LOOKS[data['kind']]
        return plot_map(
            data['image'], data['image_affine'], look=look, mask=data['mask'], title=data['title']
        )


class PlotOutlines(Step):
    """Draw the outlines of a mask and of an atlas over an image."""

    input_spec = inputs(
        image=image('background'),
        mask=mask('drawn as one outline', optional=True),
        dseg=image('labels, each region drawn as an outline', optional=True),
        labels=table('index and region (or name)', optional=True),
        kind=traits.Enum(*LOOKS, desc='map that the background is; without one an anatomical image'),
        title=traits.Str('', usedefault=True),
    )
    output_spec = _figure('.png')

    def compute(self, data: Data):
        dseg = data['dseg']
        return plot_outlines(
            data['image'],
            data['image_affine'],
            look=LOOKS[data['kind']] if data['kind'] else ANATOMY,
            mask=data['mask'],
            dseg=None if dseg is None else dseg.astype(np.int32),
            labels=data['labels'],
            title=data['title'],
        )


class PlotFlicker(Step):
    """Draw two aligned images that take turns (animated)."""

    input_spec = inputs(
        fixed=image('first image'),
        moving=image('second image, on the grid of fixed'),
        mask=mask('outlined in both, on the grid of fixed', optional=True),
        title=traits.Str('', usedefault=True),
        labels=traits.List(
            traits.Str, ['fixed', 'moving'], usedefault=True, minlen=2, maxlen=2, desc='names of the two'
        ),
    )
    output_spec = _figure('.svg')

    def compute(self, data: Data):
        svg = plot_flicker(
            data['fixed'],
            data['moving'],
            data['fixed_affine'],
            mask=data['mask'],
            labels=data['labels'],
            title=data['title'],
        )
        return svg.encode()
