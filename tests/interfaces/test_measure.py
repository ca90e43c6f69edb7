import importlib
import json
from dataclasses import replace
from functools import wraps
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nipype.interfaces.base import isdefined

from bids_qsm.applications import modules, separation, tensor
from bids_qsm.errors import UserError
from bids_qsm.interfaces import measure as measure_module
from bids_qsm.interfaces.io import save_shares
from bids_qsm.interfaces.measure import Measure
from bids_qsm.interfaces.xfm import save_xfm

SHAPE = (30, 28, 26)
AFFINE = np.diag([-1.0, 1.0, 1.0, 1])
AFFINE[:3, 3] = (15, -14, -13)
ANAT = np.diag([2.0, 2.0, 2.0, 1])
ANAT[:3, 3] = (-16, -20, -14)


def shift(*mm):
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


@pytest.fixture
def write(tmp_path):
    def write(name, data, affine=AFFINE):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def files(write, tmp_path):
    x, y, z = np.indices(SHAPE)
    noise = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    source = np.exp(-((x - 10) ** 2 + (y - 14) ** 2 + (z - 12) ** 2) / 4)
    dseg = np.zeros(SHAPE, np.int16)
    dseg[22:26, 10:14, 10:14] = 4
    labels = {'index': [4], 'name': ['L_Lobe'], 'hemisphere': ['L'], 'region': ['Lobe']}
    pd.DataFrame(labels).to_csv(tmp_path / 'dseg.tsv', sep='\t', index=False)
    (tmp_path / 'reference.json').write_text(json.dumps({'ReferenceRegion': 'CSF'}))
    return {
        'chi': write('chi.nii.gz', (0.01 * noise[0] + 0.5 * source).astype(np.float32)),
        'r2star': write('r2star.nii.gz', (20 + noise[1] + 60 * source).astype(np.float32)),
        'mask': write('mask.nii.gz', np.ones(SHAPE, np.uint8)),
        'dseg': write('dseg.nii.gz', dseg),
        'labels': str(tmp_path / 'dseg.tsv'),
        'reference': str(tmp_path / 'reference.json'),
        'to_template': [
            save_xfm(shift(10, 0, 0), tmp_path, 'a.txt'),
            save_xfm(shift(0, 5, 0), tmp_path, 'b.txt'),
        ],
        'invert': [True, False],
    }


SERIES = [{'entities': {'sub': '01'}, 'echo_times': [0.01], 'field_strength': 3.0, 'atlas': 'nuclei'}]


def measure(name, files, tmp_path, **more):
    """Outputs of an application."""
    more['extra'] = [more.get('extra', {})]
    node = Measure(application=modules()[name], series=SERIES, **files, **more)
    return node.run(cwd=str(tmp_path)).outputs


def read(path):
    return pd.read_csv(path, sep='\t')


def test_lesions_of_every_space_are_tabulated(files, write, tmp_path):
    """The same voxel drawn on the GRE, on a T1w image 3 mm off and on a FLAIR 4 mm off that."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[9:12, 13:16, 11:14] = 1
    # world of the lesion's middle: (5, 0, -1) on the GRE
    anat = np.zeros((20, 20, 20), np.uint8)
    anat[12, 10, 8] = 6
    given = [
        (write('a_mask.nii.gz', drawn), 'gre', 'on_gre'),
        (write('b_dseg.nii.gz', anat, ANAT @ shift(-0.5, 0, -0.5)), 'anat', 'on_anat'),
        (write('c_dseg.nii.gz', anat, ANAT @ shift(-0.5, 0, 1.5)), 'flair', 'on_flair'),
    ]
    outputs = measure(
        'lesions',
        files,
        tmp_path,
        extra={'lesions': given},
        gre_to_anat=save_xfm(shift(-3, 0, 0), tmp_path, 'gre.txt'),
        flair_to_anat=save_xfm(shift(0, 0, 4), tmp_path, 'flair.txt'),
    )
    table = read(outputs.table).set_index('source')
    assert table['lesion'].tolist() == [1, 1, 1]
    assert table['volume_mm3'].tolist() == [27, 8, 8]
    places = table[['x', 'y', 'z']].to_numpy().tolist()
    assert places == [[5, 0, -1], [4, 0, 1], [4, 0, 1]]
    assert table.loc['on_gre', ['template_x', 'template_y', 'template_z']].tolist() == [-5, 5, -1]
    assert table['sign'].tolist() == ['paramagnetic'] * 3
    assert table['reason'].isna().all()
    assert set(table['reference']) == {'CSF'}
    header = Path(outputs.table).read_text().splitlines()[0].split('\t')
    assert list(json.loads(Path(outputs.table_dictionary).read_text())) == header


def test_a_document_of_nothing_is_not_written(files, tmp_path, monkeypatch):
    def nothing(chi):
        assert chi.shape == SHAPE
        return pd.DataFrame({'check': ['slab']}), None, None

    module = modules()['checks']
    plain = replace(importlib.import_module(module).APPLICATION, measure=nothing)
    monkeypatch.setattr(f'{module}.APPLICATION', plain)
    outputs = measure('checks', files, tmp_path)
    assert list(read(outputs.table)['check']) == ['slab']
    assert not isdefined(outputs.checklist)
    assert not (tmp_path / 'checklist.json').exists()


def test_a_lesion_below_a_voxel_is_lost(files, write, tmp_path):
    fine = np.zeros((20, 20, 20), np.uint8)
    fine[10, 10, 10] = 3
    small = write('small_dseg.nii.gz', fine, np.diag([0.2, 0.2, 0.2, 1]) @ shift(0.3, 0.3, 0.3))
    outputs = measure('lesions', files, tmp_path, extra={'lesions': [(small, 'gre', 'small')]})
    assert 'lost' in read(outputs.table).loc[0, 'reason']


def test_empty_masks_are_rows(files, write, tmp_path):
    empty = write('empty_mask.nii.gz', np.zeros(SHAPE, np.uint8))
    del files['r2star'], files['to_template'], files['invert'], files['reference']
    outputs = measure('lesions', files, tmp_path, extra={'lesions': [(empty, 'gre', 'a')]})
    row = read(outputs.table).iloc[0]
    assert row['reason'] == 'the mask is empty'
    assert row['volume_mm3'] == row['n_voxels'] == 0


def test_faint_probabilities_are_not_called_empty(files, write, tmp_path):
    faint = write('faint_mask.nii.gz', np.full(SHAPE, 0.4, np.float32))
    outputs = measure('lesions', files, tmp_path, extra={'lesions': [(faint, 'gre', 'a')]})
    assert read(outputs.table).loc[0, 'reason'] == 'nothing above one half'


def test_a_mask_is_binary_and_a_dseg_holds_labels(files, write, tmp_path):
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[3, 3, 3:6] = 127, 255, 64
    given = [(write(f'x_{suffix}.nii.gz', drawn), 'gre', suffix) for suffix in ('mask', 'dseg')]
    table = read(measure('lesions', files, tmp_path, extra={'lesions': given}).table)
    assert table.groupby('source')['lesion'].max().to_dict() == {'mask': 1, 'dseg': 255}


def test_what_does_not_fit_is_said(files, write, tmp_path):
    four = write('four_mask.nii.gz', np.zeros((4, 4, 4, 2), np.uint8))
    with pytest.raises(UserError, match='give one 3D volume'):
        measure('lesions', files, tmp_path, extra={'lesions': [(four, 'gre', 'a')]})
    small = write('small.nii.gz', np.zeros((4, 4, 4), np.uint8))
    for name in ('candidates', 'regions'):
        with pytest.raises(UserError, match='resample it first'):
            measure(name, {**files, 'dseg': small}, tmp_path)


def test_candidates(files, tmp_path):
    outputs = measure('candidates', files, tmp_path)
    row = read(outputs.table).iloc[0]
    assert (row['class'], row['candidate'], row['reference']) == ('microbleed', 1, 'CSF')
    np.testing.assert_allclose(row[['x', 'y', 'z']].astype(float), (5, 0, -1), atol=0.3)
    np.testing.assert_allclose(row[['template_x', 'template_y']].astype(float), (-5, 5), atol=0.3)
    image = nib.load(outputs.candidates)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert np.asanyarray(image.dataobj)[10, 14, 12] == 1
    assert list(json.loads(Path(outputs.table_dictionary).read_text())) == list(read(outputs.table))
    none = measure('candidates', files, tmp_path, params={'confidence': 1.0})
    assert read(none.table).empty


@pytest.fixture
def of_regions(write, tmp_path):
    shape, affine = (16, 12, 10), np.diag([-1.0, 1.5, 2.0, 1])
    dseg = np.zeros(shape, np.int16)
    dseg[2:8, 2:8, 2:8] = 1
    white = np.zeros(shape, np.uint8)
    white[10:] = 1
    labels = pd.DataFrame(
        {'index': [1, 2], 'name': ['L_GPe', 'R_GPe'], 'hemisphere': ['L', 'R'], 'region': ['GPe', 'GPe']}
    )
    labels.to_csv(tmp_path / 'gpe.tsv', sep='\t', index=False)
    (tmp_path / 'csf.json').write_text(json.dumps({'ReferenceRegion': 'CSF of the ventricles'}))
    atlas = np.zeros((20, 20, 20), np.int16)
    atlas[:6, :6, :9], atlas[10:16, :6, :9] = 1, 2
    return {
        'chi': write('flat.nii.gz', np.full(shape, 0.1234567, np.float32), affine),
        'r2star': write('flat_r2star.nii.gz', np.full(shape, 40, np.float32), affine),
        'dseg': write('gpe.nii.gz', dseg, affine),
        'labels': str(tmp_path / 'gpe.tsv'),
        'own_dseg': write('atlas.nii.gz', atlas, np.diag([1.0, 1, 2, 1])),
        'mask': write('whole.nii.gz', np.ones(shape, np.uint8), affine),
        'white_matter': write('white.nii.gz', white, affine),
        'reference': str(tmp_path / 'csf.json'),
    }


def test_table_and_dictionary_of_regions(of_regions, tmp_path):
    outputs = measure('regions', of_regions, tmp_path)
    text = [line.split('\t') for line in Path(outputs.table).read_text().splitlines()]
    table = pd.DataFrame(text[1:], columns=text[0])
    described = json.loads(Path(outputs.table_dictionary).read_text())
    assert list(described) == text[0]
    assert 'of the atlas nuclei' in described['region']['Description']
    found = table.set_index(['region', 'hemisphere', 'map'])
    left = found.loc[('GPe', 'L', 'chi')]
    assert (left['mean'], left['index'], left['volume_mm3']) == ('0.12346', '1', '648.0')
    assert left['reference'] == 'CSF of the ventricles'
    assert found.loc[('GPe', 'R', 'chi')]['mean'] == 'n/a'
    assert found.loc[('GPe', 'both', 'chi')][['index', 'coverage']].tolist() == ['n/a', '0.5']
    white = found.loc[('White matter', 'both', 'R2star')]
    expected = ['n/a', '720', '1/s', '40.0', 'n/a']
    assert white[['index', 'n_voxels', 'units', 'mean', 'mean_pv']].tolist() == expected
    assert found.loc[('CSF', 'both', 'chi')]['mean'] == 'n/a'
    assert found.loc[('GPe', 'R', 'chi')]['note'] == 'outside the field of view'
    assert '<svg' in Path(outputs.figure_regions).read_text()


def test_regions_of_susceptibility_alone(of_regions, tmp_path):
    needed = {name: of_regions[name] for name in ('chi', 'dseg', 'labels', 'mask')}
    assert set(read(measure('regions', needed, tmp_path).table)['map']) == {'chi'}


def test_regions_of_segmented_nuclei(of_regions, tmp_path):
    """Shares and quality reach the table; the label out of the image has none."""
    dseg = np.asanyarray(nib.load(of_regions['dseg']).dataobj)
    shares = np.stack([255 * (dseg == 1), 0 * dseg], -1).astype(np.uint8)
    labels = read(of_regions['labels']).assign(
        source=['own', 'prior'], confidence=[0.75, np.nan], moved_mm=[2.5, np.nan], volume_ratio=[1.1, np.nan]
    )
    labels.to_csv(tmp_path / 'own.tsv', sep='\t', index=False, na_rep='n/a')
    probseg = save_shares(shares, of_regions['dseg'], tmp_path, 'shares.nii.gz')
    given = {**of_regions, 'labels': str(tmp_path / 'own.tsv'), 'probseg': probseg}
    outputs = measure('regions', given, tmp_path)
    table = read(outputs.table).set_index(['region', 'hemisphere', 'map'])
    left = table.loc[('GPe', 'L', 'chi')]
    assert (left['source'], left['confidence'], left['moved_mm']) == ('own', 0.75, 2.5)
    assert (left['volume_ratio'], left['border_mm']) == (1.1, 0.25)
    assert left['mean_weighted'] == pytest.approx(0.1234567, rel=1e-4)
    assert table.loc[('GPe', 'both', 'chi')]['source'] == 'own'
    assert table.loc[('GPe', 'R', 'chi')][['source', 'mean_weighted']].isna().all()


def test_a_raw_run_without_veins_has_a_figure(files, write, tmp_path, monkeypatch):
    """It comes with its mean but without a brain mask, and nothing is excluded that could be outlined."""
    monkeypatch.setattr('bids_qsm.interfaces.measure.mean_frame', None)
    x, y, z = np.indices(SHAPE)
    head = np.where((x - 15) ** 2 + (y - 14) ** 2 + (z - 13) ** 2 < 100, 100, 1).astype(np.float32)
    bold = write('bold.nii.gz', np.stack([head] * 3, -1))
    run = dict.fromkeys(('reference', 'mask', 'grey', 'white', 'confounds', 'events'), '')
    run |= {'bold': bold, 'repetition_time': 2.0, 'start_time': 0.0, 'is_raw': True}
    run |= {'has_fieldmap': False, 'to_anat': []}
    xfm = save_xfm(np.eye(4), tmp_path, 'same.txt')
    outputs = measure(
        'fmri',
        {'mask': files['mask']},
        tmp_path,
        run=run,
        gre_to_anat=xfm,
        run_to_anat=xfm,
        run_mean=write('mean.nii.gz', head),
        veins_share=write('share.nii.gz', np.zeros(SHAPE, np.float32)),
        veins_veinlabels=write('labels.nii.gz', np.zeros(SHAPE, np.int16)),
        others={'veins_share': 'probseg', 'veins_veinlabels': 'dseg'},
    )
    assert Path(outputs.figure_exclude).read_bytes().startswith(b'\x89PNG')
    about = json.loads(Path(outputs.quality_dictionary).read_text())
    assert (
        about['Constants']['ExcludedShare']
        == json.loads(Path(outputs.facts).read_text())['Constants']['ExcludedShare']
    )
    assert not read(outputs.quality)['fit_checked'][0]


def test_a_figure_is_drawn_over_what_is_there(files, tmp_path):
    """A series of given maps has no susceptibility-weighted image."""
    used = {port: files[port] for port in ('chi', 'mask')}
    node = Measure(application='tests.applications.tubes', series=SERIES, extra=[{}], **used)
    over_chi = Path(node.run(cwd=str(tmp_path)).outputs.figure_veinlabels).read_bytes()
    assert over_chi.startswith(b'\x89PNG')
    node = Measure(
        application='tests.applications.tubes', series=SERIES, extra=[{}], swi=files['r2star'], **used
    )
    assert Path(node.run(cwd=str(tmp_path)).outputs.figure_veinlabels).read_bytes() != over_chi


def test_a_figure_may_be_drawn_from_images_alone(files, tmp_path, monkeypatch):
    """As that of the directions of a susceptibility tensor."""
    image = np.full(SHAPE, 0.02, np.float32)
    v1 = np.zeros((*SHAPE, 3), np.float32)
    v1[..., 0] = 1
    rows = pd.DataFrame({'region': ['Lobe'], 'hemisphere': ['L'], 'map': ['MMS'], 'mean': [0.02]})
    listed = pd.DataFrame({'position': ['a', 'b'], 'b0_x': [0, 0.5], 'b0_y': [0, 0], 'b0_z': [1, 0.87]})
    found = np.zeros((*SHAPE, 6), np.float32), image, image, v1, rows, listed, {}
    fake = replace(tensor.APPLICATION, measure=wraps(tensor.measure)(lambda *_: found))
    monkeypatch.setattr(tensor, 'APPLICATION', fake)
    names = ('chi', 'mask', 'dseg', 'labels')
    maps = {name: [files[name]] * 2 for name in names} | dict.fromkeys(
        ('localfield', 'magnitude', 'white_matter'), [files['chi']] * 2
    )
    node = Measure(application=modules()['tensor'], series=2 * SERIES, extra=[{}, {}], **maps)
    outputs = node.run(cwd=str(tmp_path)).outputs
    assert Path(outputs.figure_directions).read_bytes()[:4] == b'\x89PNG'
    assert '<svg' in Path(outputs.figure_tensorcoverage).read_text()


@pytest.mark.parametrize('has_classical', [True, False])
def test_images_state_facts_of_their_own_and_figures_need_their_images(
    files, tmp_path, monkeypatch, has_classical
):
    """As sources of a plug-in, and classical ones beside them, which may fail."""
    image = np.full(SHAPE, 0.02, np.float32)
    rows = pd.DataFrame({'region': ['Lobe'], 'hemisphere': ['L'], 'map': ['chi_para'], 'mean': [0.02]})
    beside = (image, -image) if has_classical else (None, None)
    facts = {'method': 'little', 'classical': {'method': 'posterior'}}
    found = image, -image, 0 * image, None, None, image > 0, *beside, rows, rows, facts
    fake = replace(separation.APPLICATION, measure=wraps(separation.measure)(lambda *_: found))
    monkeypatch.setattr(separation, 'APPLICATION', fake)
    looks = []
    draw = measure_module.plot_map
    monkeypatch.setattr(measure_module, 'plot_map', lambda *a, **k: looks.append(k['look']) or draw(*a, **k))
    maps = {name: [files[name]] for name in ('chi', 'r2star', 'mask', 'dseg', 'labels')}
    node = Measure(application=modules()['separation'], series=SERIES, extra=[{}], **maps)
    outputs = node.run(cwd=str(tmp_path)).outputs
    for port, method in (('facts', 'little'), ('facts_classical', 'posterior')):
        content = json.loads(Path(getattr(outputs, port)).read_text())
        assert content == {'Constants': {'method': method}}
    assert isdefined(outputs.figure_paramagnetic)
    # the window of its look, so that pages can be compared
    assert [(one.window, one.cmap) for one in looks[:2]] == [((0.0, 0.2), 'gray'), ((-0.1, 0.0), 'gray')]
    for name in ('paramagneticclassical', 'paramagneticdeparture', 'diamagneticdeparture'):
        assert isdefined(getattr(outputs, f'figure_{name}')) == has_classical


def test_an_image_on_the_t1w_leaves_transforms_to_those_that_have_one(files, write, tmp_path):
    flow = write('flow.nii.gz', np.ones((20, 20, 20), np.float32), ANAT)
    outputs = (
        Measure(
            application='tests.applications.toy',
            series=SERIES,
            extra=[{'flow': [(flow, 'anat', 'flow')]}],
            gre_to_anat=save_xfm(shift(0, 0, 0), tmp_path, 'gre.txt'),
            **files,
        )
        .run(cwd=str(tmp_path))
        .outputs
    )
    assert np.asarray(nib.load(outputs.ratio).dataobj).any()
