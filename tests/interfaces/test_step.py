"""Steps as Nipype uses them: declared ports, lazy loading, saving by port, and pickles."""

import importlib
import json
import pickle
import pkgutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nipype.interfaces.base import Undefined, traits

from bids_qsm import interfaces
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import save
from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, outputs, path, record, table, transform
from bids_qsm.interfaces.xfm import load_xfm
from bids_qsm.recon.grid import Grid

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])

for module in pkgutil.iter_modules(interfaces.__path__):
    importlib.import_module(f'bids_qsm.interfaces.{module.name}')
STEPS = Step.__subclasses__()


class Everything(Step):
    """One output of each kind."""

    input_spec = inputs(
        image=image('image'),
        mask=mask('brain', of='image', optional=True),
        other=image('never read', optional=True),
        gain=traits.Float(1.0, usedefault=True),
    )
    output_spec = outputs(
        image=image('image'),
        mask=mask('mask'),
        none=image('not made'),
        xfm=transform('shift'),
        table=table('table'),
        note=record('note'),
    )

    def compute(self, data: Data):
        rows = pd.DataFrame({'name': ['a', 'b'], 'value': [1.5, np.nan]})
        return data['gain'] * data['image'], data['mask'], None, np.eye(4), rows, {'n': 1}


class Name(Step):
    """Write the path of a file."""

    input_spec, output_spec = inputs(file=path('file', optional=True)), outputs(note=record('note'))

    def compute(self, data: Data):
        return {'file': data['file']}


@pytest.fixture
def files(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    (tmp_path / 'damaged.nii').write_bytes(b'no image')
    return {
        'image': save(data, AFFINE, tmp_path, 'in.nii'),
        'mask': save(data > 3, AFFINE, tmp_path, 'in_mask.nii'),
        'other': str(tmp_path / 'damaged.nii'),
    }


def test_each_port_is_loaded_and_saved_in_its_way(files, tmp_path):
    (tmp_path / 'out').mkdir()
    found = Everything(gain=2.0, **files).run(cwd=str(tmp_path / 'out')).outputs
    made = nib.load(found.image)
    np.testing.assert_array_equal(made.get_fdata().ravel(), 2.0 * np.arange(24))
    np.testing.assert_array_equal(made.affine, AFFINE)
    assert nib.load(found.mask).get_data_dtype() == np.uint8
    assert found.none is Undefined
    np.testing.assert_array_equal(load_xfm(found.xfm), [np.eye(4)])
    with open(found.table) as tsv, open(found.note) as note:
        assert tsv.read() == 'name\tvalue\na\t1.5\nb\tn/a\n'
        assert json.load(note) == {'n': 1}


def test_inputs_are_loaded_when_asked_for(files):
    data = Data(Everything(**files).inputs)
    assert data['grid'] == Grid.from_affine((2, 3, 4), AFFINE)
    np.testing.assert_array_equal(data['mask_affine'], AFFINE)
    assert data['gain'] == 1.0
    assert data.first == files['image']
    with pytest.raises(UserError, match='damaged'):
        data['other']
    with pytest.raises(AttributeError):
        data['unknown']
    del files['mask']
    data = Data(Everything(**files).inputs)
    assert data['mask'] is data['mask_affine'] is None


@pytest.mark.parametrize(
    ('values', 'says'), [(np.zeros((2, 3, 4), bool), 'is empty'), (np.ones((2, 3, 3), bool), 'has shape')]
)
def test_a_mask_belongs_to_its_image(files, tmp_path, values, says):
    files['mask'] = save(values, AFFINE, tmp_path, 'wrong.nii')
    with pytest.raises(UserError, match=says):
        Data(Everything(**files).inputs)['mask']


def test_a_step_without_images_saves_what_it_makes(tmp_path):
    with open(Name().run(cwd=str(tmp_path)).outputs.note) as note:
        assert json.load(note) == {'file': None}


@pytest.mark.parametrize('step', STEPS, ids=lambda step: step.__name__)
def test_steps_survive_pickling(step):
    made = pickle.loads(pickle.dumps(step()))
    assert type(made) is step
    assert type(made.inputs) is step.input_spec
    assert type(pickle.loads(pickle.dumps(step.output_spec()))) is step.output_spec
    assert made.inputs.get_hashval() == step().inputs.get_hashval()
