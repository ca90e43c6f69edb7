"""Series that start from maps of another tool, from the files to the cohort's tables, on a coarse phantom."""

import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.anatomy.transform import resample
from bids_qsm.app import cli
from bids_qsm.phantom import dataset
from bids_qsm.recon.units import ppm_per_radian
from tests.skeletons import write_image, write_json

HZ = 1 / (2 * np.pi * ppm_per_radian(3.0))


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """One person with a T1w image: a susceptibility map in one session, a total field in the other."""
    root = tmp_path_factory.mktemp('entry')
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, '_write_truth', lambda *found: kept.append(found[-1]))
        data = dataset.tiny(root / 'data')
    affine, truth = kept[0].affine, kept[0].truth
    head = data / 'sub-01' / 'anat'
    magnitudes = data / 'sub-01' / 'ses-field' / 'anat'
    magnitudes.mkdir(parents=True)
    for path in head.glob('*_MEGRE.*'):
        if '_part-mag_' in path.name:
            shutil.move(path, magnitudes / path.name.replace('sub-01', 'sub-01_ses-field'))
        else:
            path.unlink()
    tool, out = root / 'tool', root / 'out'
    write_json(tool / 'dataset_description.json', {'Name': 'Tool', 'BIDSVersion': '1.10.0'})
    write_json(tool / 'fieldmap.json', {'Units': 'Hz', 'MagneticFieldStrength': 3})
    maps = {'chi_Chimap': truth['chi'], 'field_fieldmap': HZ * truth['total_field'] * truth['mask']}
    for name, values in maps.items():
        folder = tool / 'sub-01' / f'ses-{name.partition("_")[0]}' / 'anat'
        write_image(folder / f'sub-01_ses-{name}.nii.gz', affine=affine, data=np.asarray(values, np.float32))
    t1w = nib.load(head / 'sub-01_T1w.nii.gz')
    mask = resample(truth['mask'].astype(np.float32), affine, t1w.shape, t1w.affine, []) > 0.5
    path = tool / 'sub-01' / 'anat' / 'sub-01_desc-brain_mask.nii.gz'
    write_image(path, affine=t1w.affine, data=mask.astype(np.uint8))
    told = ['--skip-bids-validation', '-d', f'tool={tool}', '--candidates', '--refinement', 'none']
    told += ['--registration', 'dipy:whole_mm=4,box_mm=2', '--nprocs', '1']  # coarse, as the images are
    assert cli.main([str(data), str(out), 'participant', *told]) == 0
    assert cli.main([str(data), str(out), 'group']) == 0
    return SimpleNamespace(out=out, truth=truth)


def read(out, session, suffix):
    path = out / 'sub-01' / f'ses-{session}' / 'anat' / f'sub-01_ses-{session}_{suffix}.nii.gz'
    sidecar = json.loads(path.with_name(path.name.replace('.nii.gz', '.json')).read_text())
    return np.asarray(nib.load(path).dataobj), sidecar


def test_a_given_susceptibility_map_stays_as_it_is(ran):
    chi, sidecar = read(ran.out, 'chi', 'Chimap')
    assert np.array_equal(chi, ran.truth['chi'].astype(np.float32))
    assert sidecar['Sources'] == ['bids:tool:sub-01/ses-chi/anat/sub-01_ses-chi_Chimap.nii.gz']
    assert (sidecar['ReferenceRegion'], sidecar['Units']) == ('as given', 'ppm')
    assert 'Method' not in sidecar
    mask, _ = read(ran.out, 'chi', 'desc-brain_mask')
    assert np.array_equal(mask > 0, ran.truth['mask'])


def test_a_given_field_map_is_inverted(ran):
    chi, sidecar = read(ran.out, 'field', 'Chimap')
    inside = (chi != 0) & ran.truth['mask']
    assert np.corrcoef(chi[inside], ran.truth['chi'][inside])[0, 1] > 0.7
    assert list(sidecar['Parameters']) == ['background', 'inversion', 'reference']
    assert [source.partition('_echo')[0] for source in sidecar['Sources']][-1].endswith('fieldmap.nii.gz')
    assert len(sidecar['Sources']) == 4


def test_regions_lie_where_they_should(ran):
    where = ran.truth['dseg'] > 0
    for session in ('chi', 'field'):
        dseg, _ = read(ran.out, session, 'seg-nuclei_dseg')
        assert 2 * ((dseg > 0) & where).sum() / ((dseg > 0).sum() + where.sum()) > 0.75
        template = ran.out / 'sub-01' / f'ses-{session}' / 'anat'
        assert list(template.glob('*_space-*_Chimap.nii.gz'))
        assert list(template.glob('*_label-candidate_stats.tsv'))


def test_what_needs_phase_is_left_out_and_said(ran):
    names = [path.name for path in (ran.out / 'sub-01').rglob('sub-01_ses-*')]
    assert not [name for name in names if 'swi' in name or 'minip' in name or 'phase' in name.lower()]
    for session, kinds in (
        ('chi', 'chi atlas gre2t1w regions'),
        ('field', 'field localfield magnitude mask'),
    ):
        assert all(f'sub-01_ses-{session}_desc-{kind}_figure' in ' '.join(names) for kind in kinds.split())
    page = (ran.out / 'sub-01.html').read_text()
    assert 'Without phase, these are left out: the field fit, susceptibility-weighted images' in page
    assert 'is in Hz, taken to ppm at 3 T' in page


def test_the_group_level_reads_their_tables(ran):
    table = pd.read_csv(ran.out / 'group_regions.tsv', sep='\t')
    chi = table[(table['map'] == 'chi') & (table['hemisphere'] == 'both')]
    assert set(chi['session_id']) == {'ses-chi', 'ses-field'}
    pallidum = chi[chi['region'] == 'GP'].set_index('session_id')['mean']
    assert abs(pallidum['ses-chi'] - pallidum['ses-field']) < 0.06
    assert (ran.out / 'group.html').exists()
