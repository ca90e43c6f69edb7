"""What users of other tools ask for: each is planned, or refused with what to do."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from bids_qsm.recon.scaling import phase_to_radians
from tests.skeletons import (
    AFFINE,
    SHAPE,
    only_error,
    write_dataset,
    write_image,
    write_json,
    write_series,
    write_t1w,
)


@pytest.fixture
def tool(tmp_path):
    """A function that writes an image of another tool, and gives what -d is told."""
    root = write_dataset(tmp_path / 'tool')

    def write(name, shape=SHAPE, affine=AFFINE, *, labels=False, sidecar=None):
        rng = np.random.default_rng(0)
        data = rng.integers(0, 4, shape).astype(np.int16) if labels else rng.normal(0, 0.05, shape)
        path = root / 'sub-01' / 'anat' / name
        write_image(path, shape, affine, data.astype(data.dtype if labels else np.float32))
        if sidecar:
            write_json(path.with_name(name.replace('.nii.gz', '.json')), sidecar)
        return (('tool', root),)

    return write


def moved_to(folder, data, sub='01'):
    (data / f'sub-{sub}' / 'anat').rename(data / f'sub-{sub}' / folder)


def test_a_swi_folder_of_old_converters_is_read(data, find):
    write_series(data, suffix='GRE', sub='01', ses='1')
    (data / 'sub-01' / 'ses-1' / 'anat').rename(data / 'sub-01' / 'ses-1' / 'swi')
    write_image(data / 'sub-01' / 'ses-1' / 'swi' / 'sub-01_ses-1_swi.nii.gz')
    write_t1w(data, ses='1')
    (one,) = find().series
    assert (one.name, one.suffix, len(one.echo_times)) == ('sub-01_ses-1', 'GRE', 3)
    assert {path.parent.name for path in one.files} == {'swi'}
    assert one.t1w
    assert one.filtered == 'the folder swi/'


def test_a_series_has_the_echoes_of_one_folder(data, find):
    write_series(data, echo_times=(0.005, 0.01, 0.015, 0.02, 0.025))
    moved_to('swi', data)
    write_series(data)
    plan = find()
    (one,) = plan.series
    assert one.echo_times == (0.004, 0.008, 0.012)
    assert {path.parent.name for path in one.files} == {'anat'}
    assert 'swi/sub-01_echo-1_part-mag_MEGRE.nii.gz and 9 more: not used' in ' '.join(plan.notes)


@pytest.mark.parametrize(('suffix', 'other'), [('MEGRE', 'GRE'), ('T2starw', 'MEGRE')])
def test_anat_comes_before_swi_whatever_the_suffix(data, find, suffix, other):
    write_series(data, suffix=other)
    moved_to('swi', data)
    write_series(data, suffix=suffix, entities='acq-x')
    assert sorted(one.suffix for one in find().series) == sorted((suffix, other)), 'other labels'
    for path in (data / 'sub-01' / 'anat').iterdir():
        path.rename(path.with_name(path.name.replace('_acq-x', '')))
    plan = find()
    assert [one.suffix for one in plan.series] == [suffix]
    assert not plan.rejected
    assert f'part-mag_{other}.nii.gz and 5 more: not used' in ' '.join(plan.notes)


def test_a_whole_series_in_swi_comes_before_a_magnitude_in_anat(data, find):
    write_series(data)
    moved_to('swi', data)
    write_series(data, parts=('mag',))
    (one,) = find().series
    assert {path.parent.name for path in one.files} == {'swi'}


def test_halves_in_two_folders_are_not_mixed(data, find):
    write_series(data, parts=('phase',))
    moved_to('swi', data)
    write_series(data, parts=('mag',))
    says = 'swi/sub-01_echo-1_part-phase_MEGRE.nii.gz may be it: a series lies in one folder; move it to'
    assert says in only_error(find())
    (data / '.bidsignore').write_text('swi/\n')
    says = 'sub-01_echo-1_part-phase_MEGRE.nii.gz is left out by .bidsignore; take it and its fellows out'
    assert says in only_error(find())


def test_each_contrast_of_mpm_is_a_series(data, find):
    for entities in ('flip-1_mt-off', 'flip-1_mt-on', 'flip-2_mt-off'):
        write_series(data, suffix='MPM', entities=entities)
    names = [one.name for one in find().series]
    assert names == ['sub-01_flip-1_mt-off', 'sub-01_flip-1_mt-on', 'sub-01_flip-2_mt-off']
    chosen = write_json(data.parent / 'filter.json', {'megre': {'flip': 2}})
    assert [one.name for one in find(bids_filter_file=chosen).series] == ['sub-01_flip-2_mt-off']


def test_two_dimensional_and_echo_planar_images(data, find):
    sidecar = {'MagneticFieldStrength': 3.0, 'MRAcquisitionType': '2D', 'SequenceName': 'epfid2d1_64'}
    write_series(data, suffix='T2starw', echo_times=(0.03,), sidecar=sidecar)
    (one,) = find().series
    assert 'The acquisition is 2D; phase may jump between slices.' in one.notes


def test_repetitions_in_one_file_say_how_to_split_them(data, find):
    write_series(data, suffix='T2starw', echo_times=(0.03,), shape=(*SHAPE, 5))
    assert 'split echoes or repetitions into files of their own' in only_error(find())


def test_a_map_in_the_space_of_the_t1w_is_taken(data, find, tool):
    write_t1w(data, shape=SHAPE, affine=AFFINE)
    derivatives = tool('sub-01_space-T1w_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    tool('sub-01_space-T1w_seg-mine_dseg.nii.gz', labels=True)
    (one,) = find(derivatives=derivatives).series
    assert (one.given_ports, one.in_t1w) == (('chi',), True)
    assert [(found.name, found.on) for found in one.segmentations] == [('mine', 'anat')]
    tool('sub-01_Chimap.nii.gz', (9, 9, 9), sidecar={'Units': 'ppm'})
    (one,) = find(derivatives=derivatives).series
    assert one.given[0].path.name == 'sub-01_Chimap.nii.gz', 'the grid of the scanner comes first'
    assert not one.in_t1w
    assert any('sub-01_space-T1w_Chimap.nii.gz is not used' in note for note in one.notes)


def test_a_map_in_the_space_of_another_t1w_is_refused(data, find, tool):
    write_series(data, ses='1')  # which runs all the same
    write_t1w(data, ses='1', shape=SHAPE, affine=AFFINE)
    write_t1w(data, ses='2', shape=SHAPE, affine=AFFINE)
    derivatives = tool('sub-01_ses-2_space-T1w_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    plan = find(derivatives=derivatives)
    assert [one.name for one in plan.series] == ['sub-01_ses-1']
    (refused,) = plan.rejected
    assert refused.is_error
    assert 'and the map is of session 2; choose its T1w image' in refused.reason
    tool('sub-01_space-T1w_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    reasons = [one.reason for one in find(derivatives=derivatives).rejected]
    assert any('the map names no session' in reason for reason in reasons)


def test_a_map_that_is_not_where_the_t1w_is_is_refused(data, find, tool):
    far = AFFINE.copy()
    far[:3, 3] = 100
    derivatives = tool('sub-01_space-T1w_Chimap.nii.gz', affine=far, sidecar={'Units': 'ppm'})
    write_image(data / 'sub-01' / 'anat' / 'sub-01_part-mag_GRE.nii.gz')
    tool('sub-01_space-T1w_magnitude.nii.gz', affine=far)
    assert 'and there is none to use; add it' in only_error(find(derivatives=derivatives))
    write_t1w(data)
    assert 'and the map does not lie in it' in only_error(find(derivatives=derivatives))


def test_all_files_of_a_map_are_in_its_space(data, find, tool):
    """The mask in T1w space counts, the magnitude and the mask of the scanner that share its grid do not."""
    write_t1w(data, shape=SHAPE, affine=AFFINE)
    derivatives = tool('sub-01_space-T1w_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    tool('sub-01_magnitude.nii.gz')
    tool('sub-01_desc-brain_mask.nii.gz')
    (one,) = find(derivatives=derivatives).series
    assert (one.magnitude, one.given_ports) == ((), ('chi',))
    tool('sub-01_space-T1w_mask.nii.gz')
    (one,) = find(derivatives=derivatives).series
    assert one.given_ports == ('chi', 'mask')
    assert 'The map is given where it is not 0, inside the mask that lies beside it.' in one.notes


def test_susceptibility_comes_before_relaxation_in_whatever_space(data, find, tool):
    write_t1w(data, shape=SHAPE, affine=AFFINE)
    derivatives = tool('sub-01_space-T1w_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    tool('sub-01_R2starmap.nii.gz', (9, 9, 9), sidecar={'Units': '1/s'})
    (one,) = find(derivatives=derivatives).series
    assert one.given_ports == ('chi',)
    assert any(
        'sub-01_R2starmap.nii.gz is not used, as it is in the space of the scanner' in n for n in one.notes
    )


def test_a_field_in_the_space_of_the_t1w_is_not(data, find, tool):
    write_t1w(data, shape=SHAPE, affine=AFFINE)
    derivatives = tool('sub-01_space-T1w_localfield.nii.gz', sidecar={'Units': 'ppm'})
    tool('sub-01_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    (one,) = find(derivatives=derivatives).series
    assert one.given_ports == ('chi',)


def test_labels_of_the_magnitude_need_neither_its_grid_nor_a_t1w(data, find, tool):
    """SynthSeg labels any contrast, and writes voxels of 1 mm."""
    write_series(data)
    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    derivatives = tool('sub-01_space-MEGRE_desc-aseg_dseg.nii.gz', (16, 18, 18), fine, labels=True)
    tool('sub-01_desc-other_dseg.nii.gz', (16, 18, 18), fine, labels=True)
    (one,) = find(derivatives=derivatives).series
    assert [(found.name, found.on, found.names) for found in one.segmentations] == [
        ('aseg', 'gre', 'freesurfer')
    ]
    assert any('name it space-T1w' in note for note in one.notes), 'nobody knows where the other lies'
    write_series(data, entities='run-2')
    plan = find(derivatives=derivatives)
    assert not any(one.segmentations for one in plan.series), 'it may be of either'
    assert 'may be of sub-01_echo-1_part-mag_MEGRE.nii.gz or' in ' '.join(plan.series[0].notes)


@pytest.mark.parametrize('is_fine', [False, True])
def test_labels_are_of_no_other_image_than_their_own(data, find, tool, is_fine):
    """Equal grids say nothing either, as a protocol gives them to all images."""
    grid = ((16, 18, 18), np.diag([1.0, 1.0, 1.0, 1.0])) if is_fine else (SHAPE, AFFINE)
    for ses in ('1', '2'):
        write_series(data, ses=ses)
        write_series(data, ses=ses, entities='acq-x', suffix='T2starw', echo_times=(0.02,))
    derivatives = tool('sub-01_space-MEGRE_desc-aseg_dseg.nii.gz', *grid, labels=True)

    def used(**options):
        return [one.name for one in find(derivatives=derivatives, **options).series if one.segmentations]

    assert used() == [], 'it may be of either session'
    assert used(session_label=('2',)) == []
    chosen = write_json(data.parent / 'filter.json', {'megre': {'session': '2'}})
    assert used(bids_filter_file=chosen) == []
    (data / 'sub-01/ses-1/anat/sub-01_ses-1_echo-1_part-phase_MEGRE.nii.gz').unlink()
    assert used() == [], 'it may be of the one that is rejected'
    derivatives = tool('sub-01_ses-2_space-MEGRE_desc-aseg_dseg.nii.gz', *grid, labels=True)
    assert used() == ['sub-01_ses-2'], 'and not of the T2starw'


def test_labels_of_the_magnitude_are_not_of_a_map_in_t1w_space(data, find, tool):
    write_t1w(data)
    derivatives = tool('sub-01_space-T1w_Chimap.nii.gz', sidecar={'Units': 'ppm'})
    tool('sub-01_space-MEGRE_desc-aseg_dseg.nii.gz', labels=True)
    (one,) = find(derivatives=derivatives).series
    assert one.in_t1w
    assert not one.segmentations


def test_orig_is_the_space_of_freesurfer(data, find, tool):
    write_series(data)
    write_t1w(data, shape=(16, 18, 18), affine=np.eye(4))
    derivatives = tool('sub-01_space-orig_desc-aseg_dseg.nii.gz', (16, 18, 18), np.eye(4), labels=True)
    (one,) = find(derivatives=derivatives).series
    assert [found.on for found in one.segmentations] == ['anat']


def test_labels_elsewhere_in_the_scanner_are_not_taken(data, find, tool):
    write_series(data)
    far = np.diag([1.0, 1.0, 1.0, 1.0])
    far[:3, 3] = 100
    derivatives = tool('sub-01_space-MEGRE_desc-aseg_dseg.nii.gz', (16, 18, 18), far, labels=True)
    assert not find(derivatives=derivatives).series[0].segmentations


def test_unwrapped_phase_is_read_where_its_unit_is_said():
    ramp = np.linspace(-20, 20, 30, dtype=np.float32)[:, None, None, None] * np.ones(
        (30, 20, 20, 2), np.float32
    )
    phase = ramp + np.random.default_rng(0).normal(0, 0.1, ramp.shape).astype(np.float32)
    found, _ = phase_to_radians(phase.copy(), scaling='radians')
    assert np.abs(np.angle(np.exp(1j * (found - phase)))).max() < 1e-4


def test_the_example_for_radiomics_lists_regions_and_settings(tmp_path):
    """Bins of the default width would hold a whole map in ppm."""
    anat = tmp_path / 'out' / 'sub-01' / 'anat'
    for name in ('Chimap', 'seg-nuclei_dseg', 'space-X_Chimap', 'space-X_seg-nuclei_dseg'):
        write_image(anat / f'sub-01_{name}.nii.gz')
        (anat / f'sub-01_{name}.tsv').write_text('index\tname\n1\tL_Pu\n4\tR_Ca\n')
    example = runpy.run_path(str(Path(__file__).parents[2] / 'examples' / 'radiomics.py'))
    example['main'](str(tmp_path / 'out'), str(tmp_path / 'radiomics'))
    with (tmp_path / 'radiomics' / 'cases.csv').open(newline='') as table:
        rows = list(csv.DictReader(table))
    assert [(row['ID'], row['Region'], row['Label']) for row in rows] == [
        ('sub-01', 'L_Pu', '1'),
        ('sub-01', 'R_Ca', '4'),
    ]
    assert all(Path(rows[0][key]).is_file() for key in ('Image', 'Mask'))
    settings = yaml.safe_load((tmp_path / 'radiomics' / 'params.yaml').read_text())
    assert settings['setting']['binWidth'] == 0.01
    with pytest.raises(SystemExit, match='run bids_qsm first'):
        example['main'](str(tmp_path), str(tmp_path / 'radiomics'), 'other')
