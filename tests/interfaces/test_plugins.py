"""Plug-ins in interfaces, on files: results, records, and the comparison with the classical map."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.interfaces.background import RemoveBackground
from bids_qsm.interfaces.findings import CollectFindings
from bids_qsm.interfaces.inversion import Invert
from bids_qsm.interfaces.io import load, load_mask, read_record
from bids_qsm.interfaces.masking import MakeMask
from bids_qsm.interfaces.plugins import CompareMaps, CompareRegions
from bids_qsm.interfaces.reference import ReferenceChi
from bids_qsm.plugins.compare import compare_regions
from bids_qsm.recon.fourier import convolve, dipole_kernel
from tests.plugins.conftest import here  # noqa: F401
from tests.plugins.little import write_plugin

pytestmark = pytest.mark.usefixtures('here')
SHAPE = (16, 18, 14)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[3:-3, 3:-3, 3:-3] = True
    chi = np.where(mask, 0.1 * rng.standard_normal(SHAPE), 0).astype(np.float32)
    field = convolve(chi, dipole_kernel(SHAPE, (1, 1, 1), (0, 0, 1)))
    made = {
        'mask': mask.astype(np.uint8),
        'chi': chi,
        'field': np.where(mask, field, 0),
        'noise': np.full(SHAPE, 0.01),
        'magnitude': np.where(mask, 5.0, 0.1)[..., None] * np.ones(2),
        'quality': np.where(mask, 0.9, 0.1),
    }
    for name, values in made.items():
        nib.Nifti1Image(np.asarray(values, np.float32), np.diag([1, 1, 1, 1])).to_filename(
            tmp_path / f'{name}.nii'
        )
    return {name: str(tmp_path / f'{name}.nii') for name in made}


def run(interface, folder):
    folder.mkdir()
    return interface.run(cwd=str(folder)).outputs


def of(images, *names):
    return {name: images[name] for name in names}


def test_a_plugin_inverts_and_its_record_reaches_the_findings(tmp_path, images):
    folder = write_plugin(tmp_path / 'net', training={'field_strength': [7, 7], 'voxel_size': [1, 1]})
    invert = Invert(
        **of(images, 'field', 'mask', 'noise'),
        brain=images['mask'],
        magnitude=images['noise'],
        echo_times=[0.02],
        field_strength=3.0,
        method=f'onnx:{folder}',
        plugin_files=[str(folder / 'manifest.json'), str(folder / 'model.onnx')],
    )
    made = run(invert, tmp_path / 'invert')
    np.testing.assert_allclose(load(made.chi)[0], load(images['field'])[0], atol=1e-6)
    refer = ReferenceChi(chi=made.chi, mask=made.mask, inverted=made.plugin, method='none')
    note = run(refer, tmp_path / 'refer').note
    (said,) = read_record(note)['Plugins']
    assert (said['Name'], said['Licence'], said['Tiles']) == ('little', 'CC0-1.0', 1)
    assert said['Flags'] == ['The field strength is 3 T, that of its training 7 T.']
    # a reference that is taken off has a field itself, which the residuals must not see
    shifted = tmp_path / 'shifted.nii'
    values, affine = load(images['chi'])[0], np.eye(4)
    nib.Nifti1Image((values + 0.5) * load_mask(images['mask']), affine).to_filename(shifted)
    maps = CompareMaps(
        chi=made.chi,
        classical=str(shifted),
        own=made.chi,
        classical_own=images['chi'],
        classical_field=images['field'],
        mask=made.mask,
        classical_mask=images['mask'],
        field=images['field'],
        note=note,
    )
    compared = run(maps, tmp_path / 'compare')
    found = read_record(compared.note)['ClassicalComparison']
    # the field is no susceptibility: it explains the field much worse than the truth does
    assert found['ClassicalResidual'] < 0.05 < found['Residual']
    difference = load(compared.departure)[0]
    np.testing.assert_allclose(difference, load(images['field'])[0] - load(shifted)[0], atol=1e-6)
    (tmp_path / 'conditioning.json').write_text('{"findings": []}')
    collect = CollectFindings(
        series='sub-01', facts={}, conditioning=str(tmp_path / 'conditioning.json'), reference=compared.note,
        reference_asked='none',
    )  # fmt: skip
    findings = read_record(run(collect, tmp_path / 'collect').findings)['findings']
    texts = [(one['level'], one['found']) for one in findings if 'lug-in' in one['what']]
    assert texts == [
        ('info', 'little 1.0 (CC0-1.0) made this step (inversion).'),
        ('warning', 'The field strength is 3 T, that of its training 7 T.'),
        ('warning', 'The map of the plug-in explains the local field much worse than the classical one.'),
    ]


def test_a_plugin_removes_the_background(tmp_path, images):
    inputs = [{'tensor': 'field', 'channels': [{'data': 'field', 'unit': 'Hz'}]}]
    output = {'tensor': 'chi', 'unit': 'Hz'}
    folder = write_plugin(tmp_path / 'net', step='background', inputs=inputs, output=output)
    remove = RemoveBackground(
        **of(images, 'field', 'mask', 'noise'), method=f'onnx:{folder}', field_strength=3.0
    )
    made = run(remove, tmp_path / 'remove')
    np.testing.assert_allclose(load(made.local_field)[0], load(images['field'])[0], atol=1e-6)
    assert read_record(made.plugin)['Step'] == 'background'


def test_a_plugin_makes_the_mask(tmp_path, images):
    inputs = [{'tensor': 'field', 'channels': [{'data': 'magnitude', 'normalise': 'p99'}]}]
    output = {'tensor': 'chi', 'unit': 'probability'}
    folder = write_plugin(tmp_path / 'net', step='mask', inputs=inputs, output=output)
    make = MakeMask(**of(images, 'magnitude', 'quality'), brain=images['mask'], method=f'onnx:{folder}')
    made = run(make, tmp_path / 'make')
    np.testing.assert_array_equal(load_mask(made.mask), load_mask(images['mask']))
    assert read_record(made.plugin)['DiceWithDefault'] > 0.8


def test_regions_of_both_maps_are_compared(tmp_path, images):
    dseg = np.zeros(SHAPE, np.int32)
    for number in range(4):
        dseg[4 + 2 * number : 6 + 2 * number, 4:-4, 4:-4] = number + 1
    nib.Nifti1Image(dseg, np.eye(4)).to_filename(tmp_path / 'dseg.nii')
    classical = np.where(dseg > 0, 0.1 * dseg - 0.25, 0.001).astype(np.float32)
    for name, values in (('classical', classical), ('half', 0.5 * classical)):
        nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f'{name}.nii')
    labels = pd.DataFrame(
        {'index': [1, 2, 3, 4], 'region': ['A', 'B', 'C', 'C'], 'hemisphere': ['', '', 'L', 'R']}
    )
    labels.to_csv(tmp_path / 'labels.tsv', sep='\t', index=False)
    regions = CompareRegions(
        chi=str(tmp_path / 'half.nii'),
        classical=str(tmp_path / 'classical.nii'),
        mask=images['mask'],
        dseg=str(tmp_path / 'dseg.nii'),
        labels=str(tmp_path / 'labels.tsv'),
    )
    (finding,) = read_record(run(regions, tmp_path / 'regions').notes)['findings']
    assert 'slope of 0.50 against the classical map, so that they must not be mixed' in finding['found']
    assert finding['level'] == 'warning'
    table = compare_regions(0.5 * classical, classical, np.ones(SHAPE, bool), dseg, labels)
    assert table['region'].tolist() == ['A', 'B', 'C']
    np.testing.assert_allclose(table['classical'], [-0.15, -0.05, 0.1], atol=1e-6)
    np.testing.assert_allclose(table['plugin'], 0.5 * table['classical'], atol=1e-6)
