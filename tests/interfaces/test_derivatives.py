"""Results reach their names, whole, with sidecars, and only when they changed."""

import json

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.io import load, load_mask, save, save_like
from tests.skeletons import AFFINE, oblique


@pytest.fixture
def image(tmp_path):
    return save(np.ones((3, 4, 5)), np.diag([1, 2, 3, 1]), tmp_path, 'chi.nii.gz')


def test_saves_with_sidecar_and_note(image, tmp_path):
    note = tmp_path / 'note.json'
    note.write_text(json.dumps({'reference': 'CSF'}))
    out = tmp_path / 'out' / 'sub-01_Chimap.nii.gz'
    sink = SaveDerivatives(
        {'chi': out, 'r2star': tmp_path / 'none.nii.gz'}, {'chi': {'Units': 'ppm'}}, {'chi': 'why'}
    )
    sink.inputs.chi, sink.inputs.why = image, str(note)
    assert sink.run().outputs.saved == [str(out)], 'an undefined port is skipped'
    beside = out.with_name('sub-01_Chimap.json')
    assert json.loads(beside.read_text()) == {'Units': 'ppm', 'reference': 'CSF'}
    assert [p.name for p in sorted(out.parent.iterdir())] == ['sub-01_Chimap.json', 'sub-01_Chimap.nii.gz']


def test_what_this_run_does_not_make_is_removed(image, tmp_path):
    out, old = tmp_path / 'out' / 'a_Chimap.nii.gz', tmp_path / 'out' / 'a_desc-refine_xfm.nii.gz'
    old.parent.mkdir()
    for path in (old, old.with_name('a_desc-refine_xfm.json'), old.with_name('b_desc-refine_xfm.nii.gz')):
        path.touch()
    sink = SaveDerivatives({'chi': out}, remove=[str(old)])
    sink.inputs.chi = image
    sink.run()
    assert {p.name for p in old.parent.iterdir()} == {out.name, 'b_desc-refine_xfm.nii.gz'}


def test_what_an_undefined_port_gave_in_an_earlier_run_is_removed(image, tmp_path):
    names = {'dseg': 'a_dseg.nii.gz', 'labels': 'a_dseg.tsv', 'probseg': 'a_probseg.nii.gz'}
    paths = {port: tmp_path / 'out' / name for port, name in names.items()}
    table = tmp_path / 'labels.tsv'
    table.write_text('index\n')
    given = {'dseg': image, 'labels': str(table), 'probseg': image}
    sidecars = {'dseg': {'Atlas': 'nuclei'}, 'probseg': {'LabelMap': ['L_RN']}}
    SaveDerivatives(paths, sidecars, **given).run()
    beside = paths['probseg'].with_name('a_probseg.json')
    assert beside.exists()
    del given['probseg']
    SaveDerivatives(paths, sidecars, **given).run()
    assert {p.name for p in beside.parent.iterdir()} == {'a_dseg.nii.gz', 'a_dseg.tsv', 'a_dseg.json'}
    # the sidecar of the image stays where its table goes
    del given['labels']
    SaveDerivatives(paths, sidecars, **given).run()
    assert {p.name for p in beside.parent.iterdir()} == {'a_dseg.nii.gz', 'a_dseg.json'}


def test_an_empty_brain_mask_is_not_saved_and_empty_labels_are(tmp_path):
    """An empty brain is a failure that its step tells of; no candidate is an answer."""
    empty = save(np.zeros((3, 4, 5), np.uint8), np.eye(4), tmp_path, 'empty.nii.gz')
    brain, labels = tmp_path / 'out' / 'a_desc-brain_mask.nii.gz', tmp_path / 'out' / 'a_dseg.nii.gz'
    sidecars = {'mask': {'Type': 'Brain'}, 'dseg': {'Description': 'Candidates'}}
    brain.parent.mkdir()
    # that of an earlier run does not belong to this one
    brain.touch()
    sink = SaveDerivatives({'mask': brain, 'dseg': labels}, sidecars, mask=empty, dseg=empty)
    assert sink.run().outputs.saved == [str(labels)]
    assert not brain.exists()
    sink.inputs.mask = save(np.ones((3, 4, 5), np.uint8), np.eye(4), tmp_path, 'full.nii.gz')
    assert sink.run().outputs.saved == [str(labels), str(brain)]


def test_unchanged_output_is_left_alone(image, tmp_path):
    out = tmp_path / 'out' / 'chi.nii.gz'
    sink = SaveDerivatives({'chi': out}, {'chi': {'Units': 'ppm'}})
    sink.inputs.chi = image
    sink.run()
    written = out.stat().st_mtime_ns
    sink.run()
    assert out.stat().st_mtime_ns == written
    out.unlink()
    sink.run()
    assert out.exists()


def test_masks_and_maps_keep_type_and_geometry(image, tmp_path):
    data, grid = load(image)
    assert data.dtype == np.float32
    assert grid.voxel_size == (1, 2, 3)
    path = save_like(data > 0, image, tmp_path, 'mask.nii.gz')
    assert load_mask(path).all()
    assert load(path)[1] == grid


def test_sform_and_qform_that_differ_are_kept_and_b0_is_that_of_the_scanner(tmp_path):
    stored = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), AFFINE)
    stored.set_qform(AFFINE, code=1)
    stored.set_sform(oblique(25), code=2)
    stored.to_filename(tmp_path / 'first.nii.gz')
    last = tmp_path / 'first.nii.gz'
    for name in ('step.nii', 'saved.nii.gz'):
        last = save_like(load(last)[0], last, tmp_path, name)
    found = nib.load(last)
    np.testing.assert_allclose(found.get_qform(), AFFINE, atol=1e-5)
    np.testing.assert_allclose(found.get_sform(), oblique(25), atol=1e-5)
    assert (found.header['qform_code'], found.header['sform_code']) == (1, 2)
    assert load(last)[1].b0_dir == pytest.approx((0, 0, 1), abs=1e-5)
    np.testing.assert_allclose(found.affine, oblique(25), atol=1e-5)


@pytest.mark.parametrize('spoiled', ['chi.json', 'chi.nii.gz'])
@pytest.mark.parametrize('content', [b'', b'{', b'\xff\xfe', b'\x1f\x8b\x08' + bytes(60)])
def test_spoiled_output_is_written_again(image, tmp_path, spoiled, content):
    out = tmp_path / 'out' / 'chi.nii.gz'
    plain = save(load(image)[0], np.eye(4), tmp_path, 'chi.nii')
    sink = SaveDerivatives({'chi': out}, {'chi': {'Units': 'ppm'}})
    sink.inputs.chi = plain
    sink.run()
    whole = (out.parent / spoiled).read_bytes()
    (out.parent / spoiled).write_bytes(content)
    sink.run()
    assert (out.parent / spoiled).read_bytes() == whole
