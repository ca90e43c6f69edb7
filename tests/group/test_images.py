import io
import json
from functools import cache

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bids_qsm.anatomy import atlas
from bids_qsm.anatomy.transform import resample
from bids_qsm.errors import UserError
from bids_qsm.group.images import run_study_template, run_voxelwise
from bids_qsm.group.map_stack import OnDisk, find_maps, slug, slugs, zeros_of
from bids_qsm.interfaces.xfm import save_xfm
from bids_qsm.templates.spaces import get_template
from tests.anatomy.brains import warp

SPACE = 'MNI152NLin2009aSym'


@cache
def standard():
    """T1w, mask and affine of nilearn's template at 4 mm, and where the globus pallidus is."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    image = load_mni152_template(resolution=4)
    voxels = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing='ij'), -1)
    # as solids, which are as thick as voxels of 4 mm
    solids = [e for e in atlas.ellipsoids() if e.region in ('GPe', 'GPi')]
    pallidum = atlas.classify(nib.affines.apply_affine(image.affine, voxels), solids) > 0
    mask = np.asarray(load_mni152_brain_mask(resolution=4).dataobj) > 0
    return np.asarray(image.dataobj, np.float32), mask, image.affine, pallidum


def save(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), affine), path)


def write_maps(out, entities, patient, rng, effect=0.06):
    t1w, mask, affine, pallidum = standard()
    chi = 0.01 * rng.standard_normal(t1w.shape) + effect * patient * pallidum
    folder = out / entities.split('_')[0] / 'anat'
    save(folder / f'{entities}_space-{SPACE}_Chimap.nii.gz', np.where(mask, chi, 0), affine)
    sidecar = folder / f'{entities}_space-{SPACE}_Chimap.json'
    sidecar.write_text(json.dumps({'ReferenceRegion': 'CSF'}))


@pytest.fixture
def study(tmp_path):
    """Twelve participants, half of them patients, the first in two sessions; rows of regions for each."""
    rng = np.random.default_rng(2)
    rows = []
    for i in range(12):
        name, patient = f'sub-{i:02d}', i % 2
        visits = ['ses-1', 'ses-2'] if i == 0 else ['ses-1']
        for visit in visits:
            write_maps(tmp_path, f'{name}_{visit}', patient, rng)
            group = 'patient' if patient else 'control'
            for region in ('GP', 'SN'):
                rows.append((name, visit, region, group, 40.0 + i % 5))
    columns = ['participant_id', 'session_id', 'region', 'group', 'age']
    return tmp_path, pd.DataFrame(rows, columns=columns)


def test_a_group_effect_is_mapped(study):
    out, table = study
    folder = out / 'group'
    # what an earlier run of another model left
    save(
        folder / f'space-{SPACE}_map-chi_contrast-weight_stat-t_statmap.nii.gz', np.ones((2, 2, 2)), np.eye(4)
    )
    report = run_voxelwise(out, table, 'chi ~ group + age', method='fdr', smoothing_mm=6.0)
    assert not list(folder.glob('*weight*'))
    stem = f'space-{SPACE}_map-chi_contrast-groupPatientControl'
    effect = nib.load(folder / f'{stem}_stat-effect_statmap.nii.gz')
    kept = np.asarray(nib.load(folder / f'{stem}_stat-thresholded_statmap.nii.gz').dataobj)
    # the maps are coarser than the grid of the test: they stay as they are, but are cropped
    assert np.allclose(np.diag(effect.affine)[:3], 4)
    pallidum = resample(standard()[3], standard()[2], effect.shape, effect.affine, []) > 0.5
    assert (kept[pallidum] > 0).mean() > 0.7
    assert (kept < 0).sum() <= 3
    assert np.asarray(effect.dataobj)[pallidum].mean() == pytest.approx(0.035, abs=0.015)
    clusters = pd.read_csv(folder / f'{stem}_clusters.tsv', sep='\t')
    assert clusters['region'].iloc[0][2:] in ('GPe', 'GPi')
    described = json.loads((folder / f'{stem}_clusters.json').read_text())
    assert list(described) == list(clusters)
    sidecar = json.loads((folder / f'{stem}_stat-effect_statmap.json').read_text())
    assert sidecar['Units'] == 'ppm'
    assert '12 participants' in sidecar['Description']
    assert (folder / f'space-{SPACE}_map-chi_desc-mean_Chimap.nii.gz').exists()
    # age does nothing, and is said
    assert any('No voxel passes' in note and 'age' in note for note in report['notes'])
    assert len(report['figures']) == 3
    for caption, png in report['figures']:
        assert 'participants' in caption
        assert Image.open(io.BytesIO(png)).size[0] == 1200
    assert report['tables'][0][1].equals(report['tables'][0][1].head(20))
    assert not list(folder.glob('.*'))


def test_what_is_missing_is_said(study):
    out, table = study
    table.loc[table['participant_id'] == 'sub-03', 'age'] = np.nan
    (out / 'sub-04' / 'anat' / f'sub-04_ses-1_space-{SPACE}_Chimap.nii.gz').unlink()
    path = out / 'sub-05' / 'anat' / f'sub-05_ses-1_space-{SPACE}_Chimap.nii.gz'
    save(path, np.ones((9, 9, 9)), np.eye(4))
    table['site'] = table['participant_id'].str[-1].isin(list('01267')) + 1
    table.loc[0, 'site'] = 1
    report = run_voxelwise(out, table, 'chi ~ group + age + C(site)', method='fdr', smoothing_mm=0)
    notes = ' '.join(report['notes'])
    assert 'no map in template space: sub-04' in notes
    assert '1 participant without age' in notes
    assert 'on another grid: sub-05' in notes
    assert 'site differs between sessions of sub-00' in notes
    assert '9 participants' in report['figures'][0][0]
    assert any('C(site) 2 - 1' in caption for caption, _ in report['figures'])


def test_no_maps_at_all(tmp_path):
    table = pd.DataFrame({'participant_id': ['sub-01', 'sub-02'], 'age': [1, 2]})
    voxelwise = run_voxelwise(tmp_path, table, 'chi ~ age', method='fdr', smoothing_mm=3.0)
    for report in (voxelwise, run_study_template(tmp_path, iterations=1)):
        assert not report['figures']
        assert '0 participants' in report['notes'][-1]


@pytest.mark.parametrize('formula', ['R2 ~ group', 'chi ~ weight', "chi ~ open('x')"])
def test_models_that_cannot_be(study, formula):
    out, table = study
    with pytest.raises(UserError):
        run_voxelwise(out, table, formula, method='fdr', smoothing_mm=3.0)


def test_maps_are_found_by_session_and_space(study):
    out, table = study
    notes = []
    first = table[table['session_id'] == 'ses-1']
    space, paths = find_maps(out, 'Chimap', first, '', notes)
    assert space == SPACE
    assert [len(p) for p in paths.values()] == [1] * 12
    save(out / 'sub-00' / 'anat' / 'sub-00_ses-1_space-other_Chimap.nii.gz', np.ones((3, 3, 3)), np.eye(4))
    (out / 'sub-01' / 'anat' / f'sub-01_ses-1_space-{SPACE}_Chimap.json').write_text('{}')
    space, paths = find_maps(out, 'Chimap', table, '', notes)
    assert space == SPACE
    assert len(paths['sub-00']) == 2
    assert 'there are also other' in notes[0]
    assert 'not stated (1 series)' in notes[1]


def test_slugs():
    assert slug('center(age):group PD - control') == 'centerAgeGroupPDControl'
    assert slugs(['a', 'A', 'a2', 'женщины', 'мужчины', 'a']) == ['a', 'A2', 'a22', 'x', 'x2', 'a3']


def test_levels_that_differ_in_a_sign_have_files_of_their_own(study):
    out, table = study
    levels = np.array(['control', 'PKAN+', 'PKAN-'])
    table['group'] = levels[table['participant_id'].str[-2:].astype(int) % 3]
    run_voxelwise(out, table, 'chi ~ group', method='fdr', smoothing_mm=0)
    paths = sorted((out / 'group').glob('*_stat-effect_statmap.nii.gz'))
    assert len(paths) == 2
    first, second = (json.loads(path.with_name(path.name[:-7] + '.json').read_text()) for path in paths)
    assert first['Description'] != second['Description']
    assert not np.allclose(*(nib.load(path).get_fdata() for path in paths))


def long_of(table, zeros):
    """The long table of a cohort in which a region of each series has this susceptibility."""
    rows = table.drop_duplicates(['participant_id', 'session_id']).assign(map='chi', hemisphere='both')
    csf = rows.assign(region='CSF', mean=zeros)
    return pd.concat([csf, rows.assign(region='GP', mean=0.1)], ignore_index=True)


def test_maps_are_shifted_to_the_reference_of_their_own_series(study):
    out, table = study
    series = table.drop_duplicates(['participant_id', 'session_id'])
    zeros = np.linspace(-0.5, 0.5, len(series))
    plain = run_voxelwise(out, table, 'chi ~ group', method='fdr', smoothing_mm=0)
    mean = out / 'group' / f'space-{SPACE}_map-chi_desc-mean_Chimap.nii.gz'
    before = nib.load(mean).get_fdata()
    # a zero of each series: subtracting it again gives what was there
    for (name, visit), zero in zip(series[['participant_id', 'session_id']].to_numpy(), zeros, strict=True):
        path = out / name / 'anat' / f'{name}_{visit}_space-{SPACE}_Chimap.nii.gz'
        image = nib.load(path)
        data = image.get_fdata()
        save(path, np.where(data != 0, data + zero, 0), image.affine)
    shifted = {'method': 'fdr', 'smoothing_mm': 0, 'relative_to': 'CSF'}
    report = run_voxelwise(out, long_of(table, zeros), 'chi ~ group', **shifted)
    np.testing.assert_allclose(nib.load(mean).get_fdata(), before, atol=1e-5)
    assert 'Susceptibility is relative to CSF of the same series.' in report['notes']
    assert 'relative to CSF' in report['figures'][-1][0]
    assert 'relative to' not in plain['figures'][-1][0]
    sidecar = json.loads(mean.with_name(mean.name[:-7] + '.json').read_text())
    assert 'relative to CSF' in sidecar['Description']
    # a series without the region, and a participant without another series
    zeros[[1, 5]] = np.nan
    report = run_voxelwise(out, long_of(table, zeros), 'chi ~ group', **shifted)
    said = 'Left out, for their tables have no CSF: sub-00_ses-2, sub-04_ses-1.'
    assert said in report['notes']
    assert '11 participants' in report['figures'][0][0]
    with pytest.raises(UserError, match='Cerebellum'):
        run_voxelwise(out, long_of(table, zeros), 'chi ~ group', **{**shifted, 'relative_to': 'Cerebellum'})


def test_zeros_are_of_one_atlas_and_of_each_run(tmp_path):
    rows = [
        {
            'participant_id': 'sub-1',
            'run': run,
            'atlas': atlas,
            'map': 'chi',
            'hemisphere': side,
            'mean': zero,
        }
        for run, both in (('1', 0.1), ('2', 0.2))
        for atlas, side, zero in (('b', 'both', 9.0), ('a', 'L', 7.0), ('a', 'both', both))
    ]
    table = pd.DataFrame(rows).assign(region='CSF')
    files = [tmp_path / f'sub-1_run-{run}_space-X_Chimap.nii.gz' for run in (1, 2, 3)]
    notes = []
    zeros, paths = zeros_of(table, 'CSF', {'sub-1': files}, notes)
    assert zeros == pytest.approx({files[0]: 0.1, files[1]: 0.2})
    assert paths == {'sub-1': files[:2]}
    assert notes[0] == 'CSF is that of the atlas a.'
    assert 'sub-1_run-3' in notes[-1]


def test_only_susceptibility_is_shifted(study):
    out, table = study
    for path in out.rglob('*_Chimap.nii.gz'):
        path.rename(path.with_name(path.name.replace('Chimap', 'R2starmap')))
    report = run_voxelwise(out, table, 'R2star ~ group', method='fdr', smoothing_mm=0, relative_to='CSF')
    assert not [note for note in report['notes'] if 'relative' in note]
    assert 'relative' not in report['figures'][0][0]


def test_displacements_are_kept_on_disk(tmp_path):
    fields = OnDisk(tmp_path)
    field = warp(1, 2.0)
    fields[3] = field
    assert list(fields) == [3]
    np.testing.assert_allclose(fields[3].field, field.field, atol=0.01)
    assert fields.get(1) is None
    fields.clear()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cohort(tmp_path):
    """Two participants with T1w images of their own space, and one without."""
    t1w, mask, affine, pallidum = standard()
    rng = np.random.default_rng(4)
    for i in range(3):
        name, way = f'sub-{i}', warp(30 + i, 3.0)
        chi, inside, image = (
            resample(v, affine, t1w.shape, affine, [way]) for v in (0.13 * pallidum, mask, t1w)
        )
        chi = np.where(inside > 0.5, chi + 0.004 * rng.standard_normal(chi.shape), 0)
        save(tmp_path / name / 'anat' / f'{name}_space-{SPACE}_Chimap.nii.gz', chi, affine)
        if i == 2:
            continue
        shift = np.eye(4)
        shift[:3, 3] = (10, -5, 3)
        away = shift @ affine
        save(tmp_path / name / 'anat' / f'{name}_desc-preproc_T1w.nii.gz', 700 * image, away)
        save(tmp_path / name / 'anat' / f'{name}_space-T1w_desc-brain_mask.nii.gz', inside > 0.5, away)
        save_xfm(shift, tmp_path / name / 'anat', f'{name}_from-T1w_to-{SPACE}_mode-image_xfm.txt')
    return tmp_path


def test_a_template_is_written(cohort, monkeypatch):
    report = run_study_template(cohort, iterations=1, alignment={'spacing_mm': 6.0})
    folder = cohort / 'group' / 'tpl-study'
    names = {path.name for path in folder.iterdir()}
    stem = 'tpl-study_res-01'
    assert {f'{stem}_T1w.nii.gz', f'{stem}_desc-brain_mask.nii.gz', f'{stem}_Chimap.nii.gz'} < names
    described = json.loads((folder / 'template_description.json').read_text())
    assert described['Identifier'] == 'study'
    assert described['res']['01']['zooms'] == [4, 4, 4]
    t1w, mask, affine, pallidum = standard()
    chi, mean, brain = (
        nib.load(folder / f'{stem}_{end}.nii.gz') for end in ('Chimap', 'T1w', 'desc-brain_mask')
    )
    assert chi.shape == mean.shape == brain.shape == t1w.shape
    assert np.allclose(chi.affine, affine)
    inside = np.asarray(brain.dataobj) > 0
    assert 2 * (inside & mask).sum() / (inside.sum() + mask.sum()) > 0.95
    # the T1w images were brought from where they are
    assert np.corrcoef(np.asarray(mean.dataobj)[inside & mask], t1w[inside & mask])[0, 1] > 0.75
    assert np.asarray(chi.dataobj)[pallidum].mean() > 0.03
    assert any('sub-2 has no T1w' in note for note in report['notes'])
    assert len(report['figures']) == 3
    table = report['tables'][0][1]
    assert table['T1w'].tolist() == ['yes', 'yes', 'no']
    assert (table['moved_mm'] > 0).all()
    assert not list((cohort / 'group').glob('.*'))
    # it can be used as any of TemplateFlow's
    monkeypatch.setenv('TEMPLATEFLOW_HOME', str(cohort / 'group'))
    assert get_template('study', cohort / 'cache').t1w == folder / f'{stem}_T1w.nii.gz'


def test_template_names_are_labels(tmp_path):
    with pytest.raises(UserError, match='letters and digits'):
        run_study_template(tmp_path, name='../x', iterations=1)
