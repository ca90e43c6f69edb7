"""Base of the interfaces: a step declares its ports; they are loaded, computed with, and saved."""

from collections.abc import Callable
from functools import partial
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
from nipype.interfaces.base.support import Bunch

from bids_qsm.anatomy.transform import Displacement
from bids_qsm.derivatives.tables import read_labels, write_table
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import (
    grid_of,
    load_float,
    load_head,
    load_shares,
    load_volume,
    read_mask,
    read_record,
    save_like,
    save_shares,
    write_record,
)
from bids_qsm.interfaces.xfm import load_xfm, save_xfm
from bids_qsm.plugins import PREFIX

ECHO_TIMES = traits.List(traits.Float, mandatory=True, desc='rising echo times (s)')
FIELD_STRENGTH = traits.Float(mandatory=True, desc='B0 (T)')


class Step(SimpleInterface):
    """A step of the graph, on files; :meth:`compute` works on arrays alone.

    Outputs are named after their ports. Images take the grid of the input that is declared first.

    ::

        class CombineMagnitude(Step):
            input_spec = inputs(magnitude=image('magnitude, echoes last'))
            output_spec = outputs(combined=image('root sum of squares over echoes, 3D'))

            def compute(self, data: Data):
                return combine(data['magnitude'])
    """

    def __init_subclass__(cls):
        super().__init_subclass__()
        for port in ('input_spec', 'output_spec'):
            if spec := vars(cls).get(port):  # a name under which pickle finds it
                spec.__module__, spec.__qualname__ = cls.__module__, f'{cls.__qualname__}.{port}'

    def compute(self, data: 'Data'):
        """Return the outputs in the order of their ports: one, or a tuple; None is not saved."""
        raise NotImplementedError

    def _run_interface(self, runtime: Bunch):
        data = Data(self.inputs)
        found = self.compute(data)
        found = found if isinstance(found, tuple) else (found,)
        for name, value in zip(self.output_spec.ports, found, strict=True):
            if value is not None:
                save = self.output_spec.class_traits()[name].save
                self._results[name] = str(save(value, data.first, Path(runtime.cwd), name))
        return runtime


class Data(dict):
    """Inputs of a step by port, each loaded when it is first asked for; None where not given.

    It also has 'grid', the Grid of the image that is declared first, and '<port>_affine' of each image.
    """

    def __init__(self, inputs: TraitedSpec):
        super().__init__()
        self._inputs = inputs
        self._given = [name for name in inputs.ports if isdefined(getattr(inputs, name))]

    def __missing__(self, name: str):
        if name == 'grid':
            self[name] = grid_of(nib.load(self.first))
        else:
            self._load(name.removesuffix('_affine'))
        return self[name]

    @property
    def first(self):
        """File of the input that is declared first."""
        path = getattr(self._inputs, self._given[0]) if self._given else None
        return path[0] if isinstance(path, list) else path

    def _load(self, name: str):
        trait, value, affine = self._inputs.trait(name), getattr(self._inputs, name), None
        if name not in self._given:
            value = None
        elif trait.is_image:
            value, affine = trait.load(value)
        elif trait.load:
            value = trait.load(value)
        self[name], self[f'{name}_affine'] = value, affine
        if trait.of and value is not None:
            self._require_brain(name, trait.of)

    def _require_brain(self, mask: str, image: str):
        path, other = getattr(self._inputs, mask), getattr(self._inputs, image)
        shape, wanted = self[mask].shape, self[image].shape
        if shape != wanted:
            raise UserError(f'The mask {path} has shape {shape}, but its image {other} has {wanted}.')
        if not self[mask].any():
            raise UserError(f'The mask {path} is empty: no brain was found in {other}.')


def inputs(**ports: traits.TraitType):
    """Specification of the inputs of a step."""
    return _spec(BaseInterfaceInputSpec, ports)


def outputs(**ports: traits.TraitType):
    """Specification of the outputs of a step."""
    return _spec(TraitedSpec, ports)


def _spec(base: type[TraitedSpec], ports: dict[str, traits.TraitType]):
    spec = type(base)(base.__name__, (base,), dict(ports))
    spec.ports = tuple(ports)
    return spec


def methods(registry: dict[str, Callable]):
    """Ports ``method`` and ``params`` of a step that has a choice of methods, named by its ``choices``."""
    return {
        'method': traits.Enum(*registry, usedefault=True, choices=tuple(registry), desc='method'),
        'params': traits.Dict({}, usedefault=True, desc='its parameters'),
    }


def methods_or_plugins(registry: dict[str, Callable]):
    """The same of a step that takes plug-ins too, with the files that the results of one depend on."""
    plugin = traits.String(regex=f'^{PREFIX}/')
    name = traits.Union(traits.Enum(*registry), plugin, usedefault=True, choices=tuple(registry))
    files = traits.List(File(exists=True), desc='files of the plug-in')
    return {**methods(registry), 'method': name, 'plugin_files': files}


def image(desc: str, *, optional: bool = False):
    """Image of the series (float32, echoes last); saved uncompressed, as the next steps read it at once."""
    return _image(desc, optional, load_float, '.nii')


def mask(desc: str, *, optional: bool = False, of: str | None = None):
    """Boolean mask; with ``of`` it must have the shape of that image and hold a brain."""
    return _image(desc, optional, _load_brain if of else read_mask, '.nii', of=of)


def volume(desc: str, *, optional: bool = False):
    """3D image (float32, finite)."""
    return _image(desc, optional, load_volume, '.nii.gz')


def shares(desc: str):
    """4D image of shares (uint8, in 255ths); other software reads them as 0 to 1."""
    return _file(desc, True, load=load_shares, save=_save_shares)


def head(desc: str):
    """3D image (float32, finite) that is not empty."""
    return _image(desc, False, load_head, '.nii.gz')


def transform(desc: str, *, optional: bool = False):
    """ITK transform: loaded as a list of transforms, saved from a 4x4 matrix or a Displacement."""
    return _file(desc, optional, load=load_xfm, save=_save_xfm)


def table(desc: str, *, optional: bool = False):
    """TSV file: a DataFrame."""
    return _file(desc, optional, load=read_labels, save=_save_table)


def record(desc: str, *, optional: bool = False):
    """JSON file: a dict."""
    return _file(desc, optional, load=read_record, save=_save_record)


def path(desc: str, *, optional: bool = False):
    """File that is given by its path."""
    return _file(desc, optional)


def _file(desc: str, optional: bool, **metadata: Callable | str | bool | None):
    return File(exists=True, mandatory=not optional, desc=desc, **metadata)


def _image(desc: str, optional: bool, load: Callable, extension: str, of: str | None = None):
    save = partial(_save_image, extension)
    return _file(desc, optional, load=load, save=save, of=of, is_image=True)


def _load_brain(path: str):
    data, affine = load_volume(path)
    return data > 0.5, affine


def _save_image(extension: str, value: np.ndarray, like: str, folder: Path, name: str):
    return save_like(value, like, folder, f'{name}{extension}')


def _save_shares(value: np.ndarray, like: str, folder: Path, name: str):
    return save_shares(value, like, folder, f'{name}.nii.gz')


def _save_xfm(value: np.ndarray | Displacement, _: str, folder: Path, name: str):
    return save_xfm(value, folder, f'{name}{".nii.gz" if isinstance(value, Displacement) else ".txt"}')


def _save_table(value: pd.DataFrame, _: str, folder: Path, name: str):
    return write_table(value, folder / f'{name}.tsv')


def _save_record(value: dict, _: str, folder: Path, name: str):
    return write_record(value, folder / f'{name}.json')
