import nibabel as nib
import numpy as np
import pytest

from bids_qsm.app import cli
from bids_qsm.app.fetch import fetch
from bids_qsm.errors import UserError
from bids_qsm.templates import spaces as templates

SPACE = 'MNI152NLin2009cAsym'


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Stand-ins for the downloads, which note where they went; the caches of the user are empty."""
    went = []

    def template(name, home):
        went.append(home)
        folder = home / f'tpl-{name}'
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f'tpl-{name}_res-01_{what}.nii.gz' for what in ('T1w', 'desc-brain_mask')]
        for path in paths:
            nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), path)
        return paths

    monkeypatch.setattr(templates, '_download_template', template)
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(tmp_path / 'templateflow'))
    monkeypatch.setenv('NILEARN_DATA', str(tmp_path / 'nilearn'))
    return went


def test_a_template_is_brought_to_its_cache_once(downloads, tmp_path, capsys):
    assert cli.main(['fetch', SPACE]) == 0
    folder = tmp_path / 'templateflow' / f'tpl-{SPACE}'
    assert capsys.readouterr().out == f'{SPACE}: {folder}\n'
    assert fetch(SPACE) == folder
    assert downloads == [tmp_path / 'templateflow']
    assert templates.get_template(SPACE, tmp_path / 'work').t1w.parent == folder


def test_what_is_built_in_needs_nothing(downloads, capsys):
    assert cli.main(['fetch', 'nuclei', 'MNI152NLin2009aSym']) == 0
    assert capsys.readouterr().out == 'nuclei: built in\nMNI152NLin2009aSym: built in\n'
    assert not downloads


def test_an_atlas_that_is_in_its_cache(downloads, tmp_path):
    folder = tmp_path / 'nilearn' / 'pauli_2017'
    folder.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2, 1)), np.eye(4)), folder / 'pauli_2017_prob.nii.gz')
    (folder / 'labels.txt').write_text('0 Pu\n1 Ca\n')
    assert fetch('CIT168') == folder
    assert not downloads


@pytest.mark.usefixtures('downloads')
def test_a_cache_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr('os.access', lambda *_args: False)
    with pytest.raises(UserError, match=f'cache for {SPACE} cannot be written; set TEMPLATEFLOW_HOME'):
        fetch(SPACE)


def test_a_run_downloads_to_its_work_folder_where_the_cache_is_read_only(downloads, tmp_path, monkeypatch):
    """As in a container, whose templates are part of the image."""
    monkeypatch.setattr('os.access', lambda *_args: False)
    found = templates.get_template(SPACE, tmp_path / 'work')
    assert downloads == [tmp_path / 'work' / 'templateflow']
    assert templates.get_template(SPACE, tmp_path / 'work') == found
    assert len(downloads) == 1


def test_nothing_to_fetch(capsys):
    with pytest.raises(SystemExit):
        cli.main(['fetch'])
    assert 'SPACE|ATLAS' in capsys.readouterr().err
