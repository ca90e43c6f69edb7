import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_qsm.errors import UserError
from bids_qsm.templates import spaces
from bids_qsm.templates.spaces import get_template, get_white_matter
from tests.templates.images import write


def test_embedded_template_needs_no_network(homes):
    found = get_template('MNI152NLin2009aSym', homes / 'cache')
    brain, mask = nib.load(found.t1w), nib.load(found.mask)
    assert brain.shape == mask.shape == (197, 233, 189)
    np.testing.assert_array_equal(brain.affine, mask.affine)
    assert 1.6e6 < np.asarray(mask.dataobj).sum() < 2.1e6
    date = found.t1w.stat().st_mtime_ns
    assert get_template('MNI152NLin2009aSym', homes / 'cache') == found
    assert found.t1w.stat().st_mtime_ns == date


@pytest.mark.parametrize('keep', [0, 1000])
def test_template_that_was_cut_short_is_made_again(homes, keep):
    found = get_template('MNI152NLin2009aSym', homes / 'cache')
    whole = found.mask.read_bytes()
    found.mask.write_bytes(whole[:keep])
    assert get_template('MNI152NLin2009aSym', homes / 'cache').mask.read_bytes() == whole
    assert [p.name for p in found.mask.parent.glob('.*')] == []


def test_damaged_template_of_the_user_is_said(homes):
    stem = homes / 'TEMPLATEFLOW_HOME' / 'tpl-X' / 'tpl-X_res-01'
    for suffix in ('T1w', 'desc-brain_mask'):
        write(stem.with_name(f'{stem.name}_{suffix}.nii.gz'), np.ones((9, 9, 9), np.float32))
    t1w = stem.with_name(f'{stem.name}_T1w.nii.gz')
    t1w.write_bytes(t1w.read_bytes()[:60])
    with pytest.raises(UserError, match=r'T1w\.nii\.gz cannot be read'):
        get_template('X', homes / 'cache')


def test_template_whose_download_was_killed_is_downloaded_again(homes, monkeypatch):
    folder = homes / 'TEMPLATEFLOW_HOME' / 'tpl-X'
    for suffix in ('T1w', 'desc-brain_mask'):
        path = write(folder / f'tpl-X_res-01_{suffix}.nii.gz', np.ones((9, 9, 9), np.float32))
        path.write_bytes(path.read_bytes()[:60])
    asked = []

    def client(name, root):
        asked.append(root)
        data = np.ones((3, 3, 3), np.uint8)
        paths = [Path(root) / f'tpl-{name}_res-01_{suffix}.nii.gz' for suffix in ('T1w', 'desc-brain_mask')]
        return [[write(path, data)] for path in paths]

    monkeypatch.setattr(spaces, '_templateflow', client)
    found = get_template('X', homes / 'cache')
    assert (found.t1w.parent, nib.load(found.mask).shape) == (folder, (3, 3, 3))
    # nothing but whole files comes to the cache, and the second time nothing is asked for
    assert {path.name for path in folder.iterdir()} == {found.t1w.name, found.mask.name}
    assert get_template('X', homes / 'cache') == found
    assert len(asked) == 1
    assert not Path(asked[0]).exists()


def test_the_variable_of_the_user_stays(homes, monkeypatch):
    with pytest.raises(UserError, match='Nowhere'):
        get_template('Nowhere', homes / 'cache')
    assert os.environ['TEMPLATEFLOW_HOME'] == str(homes / 'TEMPLATEFLOW_HOME')
    monkeypatch.delenv('TEMPLATEFLOW_HOME')
    monkeypatch.setenv('HOME', str(homes))
    with pytest.raises(UserError, match='Nowhere'):
        get_template('Nowhere', homes / 'cache')
    assert 'TEMPLATEFLOW_HOME' not in os.environ


def test_template_of_a_filled_cache(homes):
    folder = homes / 'TEMPLATEFLOW_HOME' / 'tpl-MNI152NLin2009cAsym'
    t1w = write(folder / 'tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz', np.ones((3, 3, 3), np.float32))
    mask = write(
        folder / 'tpl-MNI152NLin2009cAsym_res-01_desc-brain_mask.nii.gz', np.ones((3, 3, 3), np.uint8)
    )
    found = get_template('MNI152NLin2009cAsym', homes / 'cache')
    assert (found.t1w, found.mask, found.approximate) == (t1w, mask, False)


def test_template_neither_cached_nor_to_be_had(homes):
    # An empty stand-in, as TemplateFlow's own skeleton has them, is no template.
    folder = homes / 'TEMPLATEFLOW_HOME' / 'tpl-MNI152NLin2009cAsym'
    folder.mkdir(parents=True)
    (folder / 'tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz').touch()
    with pytest.raises(UserError, match=r'MNI152NLin2009cAsym .* TEMPLATEFLOW_HOME') as caught:
        get_template('MNI152NLin2009cAsym', homes / 'cache')
    assert '\n' not in str(caught.value)


def test_unknown_template(homes):
    with pytest.raises(UserError, match='Nowhere'):
        get_template('Nowhere', homes / 'cache')


def test_deep_white_matter_of_a_template(homes):
    template = get_template('MNI152NLin2009aSym', homes / 'cache')
    path = get_white_matter(template, homes / 'cache')
    region, brain = (np.asarray(nib.load(p).dataobj) > 0 for p in (path, template.mask))
    assert 20e3 < region.sum() < 150e3
    assert not (region & ~brain).any()
    assert get_white_matter(template, homes / 'cache') == path
