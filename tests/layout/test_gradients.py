"""Diffusion images: their tables of gradients, what is wrong with them, and which images are taken."""

import numpy as np
import pytest

from bids_qsm.app.methods import Method
from bids_qsm.phantom.diffusion import spread
from tests.skeletons import SHAPE, only_error, write_dataset, write_image, write_series

ASKED = {'applications': (Method('fibres'),)}


def write_tables(folder, stem, bvals, bvecs, *, columns=False):
    np.savetxt(folder / f'{stem}.bval', np.atleast_2d(bvals), '%g')
    np.savetxt(folder / f'{stem}.bvec', bvecs if columns else np.transpose(bvecs), '%.5f')


def write_dwi(root, *, stem='sub-01_dwi', directions=6, **tables):
    """Images without diffusion weighting and with it, and their tables."""
    folder = root / 'sub-01' / 'dwi'
    image = write_image(folder / f'{stem}.nii.gz', (*SHAPE, 1 + directions))
    bvecs = np.concatenate([np.zeros((1, 3)), spread(directions)])
    write_tables(folder, stem, [0] + [1000] * directions, bvecs, **tables)
    return image


def taken(series, name='fibres'):
    (use,) = [use for use in series.applications if use.name == name]
    return [(one.query, one.path.name) for one in use.inputs]


def test_images_without_maps_are_taken_with_their_tables(data, find):
    write_series(data)
    image = write_dwi(data, columns=True)
    (one,) = find(**ASKED).series
    (use,) = [use for use in one.applications if use.name == 'fibres']
    (item,) = use.inputs
    assert (item.query, item.path, item.space) == ('dwi', image, 'own')
    assert item.gradients.bval.name == 'sub-01_dwi.bval'
    assert item.gradients.shape == (*SHAPE, 7)
    assert any('a tensor is fitted to sub-01_dwi.nii.gz; motion, eddy' in note for note in one.notes)
    # nothing else is missed
    assert not any('done without' in note for note in one.notes)


def test_given_maps_come_before_images_and_prepared_ones_before_raw_ones(data, find):
    write_series(data)
    write_dwi(data)
    prepared = data / 'derivatives' / 'qsiprep'
    write_dataset(prepared)
    write_dwi(prepared, stem='sub-01_space-ACPC_desc-preproc_dwi')
    (one,) = find(**ASKED).series
    assert taken(one) == [('dwi', 'sub-01_space-ACPC_desc-preproc_dwi.nii.gz')]
    for name, shape in (('FA', SHAPE), ('V1', (*SHAPE, 3)), ('tensor', (*SHAPE, 6))):
        write_image(data / f'derivatives/dti/sub-01/dwi/sub-01_{name}.nii.gz', shape)
    (one,) = find(**ASKED).series
    assert taken(one) == [('fa', 'sub-01_FA.nii.gz'), ('directions', 'sub-01_tensor.nii.gz')]
    assert any('desc-preproc_dwi.nii.gz is not used' in note for note in one.notes)
    assert not any('done without' in note for note in one.notes)


def test_tables_are_inherited_and_the_nearest_wins(data, find):
    write_series(data)
    image = write_dwi(data)
    stem = image.name.removesuffix('.nii.gz')
    for extension in ('.bval', '.bvec'):
        (image.parent / f'{stem}{extension}').rename(data / f'dwi{extension}')
    (one,) = find(**ASKED).series
    (item,) = [item for use in one.applications for item in use.inputs if item.query == 'dwi']
    assert item.gradients.bval == data / 'dwi.bval'
    write_tables(data / 'sub-01', 'sub-01_dwi', [0] + [700] * 6, np.eye(3)[[0, 1, 2, 0, 1, 2, 0]])
    (one,) = find(applications=(Method('separation'),)).series
    assert any('sub-01_dwi.nii.gz has 3 directions in its best shell' in note for note in one.notes)


@pytest.mark.parametrize(
    ('bvals', 'bvecs', 'said'),
    [
        (None, np.zeros((7, 3)), 'sub-01_dwi.nii.gz has no .bval; add sub-01_dwi.bval'),
        ([0] + [1000] * 6, None, 'sub-01_dwi.nii.gz has no .bvec; add sub-01_dwi.bvec'),
        ([0] + [1000] * 5, np.zeros((7, 3)), 'has 6 b-values, and sub-01_dwi.nii.gz has 7 volumes'),
        ([0] + [1000] * 6, np.zeros((6, 3)), 'has 6 directions, and sub-01_dwi.nii.gz has 7 volumes'),
        ([0] + [1000] * 6, np.zeros((7, 4)), 'is no table of three rows'),
        ([1000] * 7, spread(7), 'has no b-value up to 50 s/mm^2'),
        ([0] + [1000] * 6, 2 * spread(7), 'has directions of length 2'),
        ([0] + [1000] * 6, spread(7)[[0, 1, 2, 3, 4, 5, 5]], '5 directions in its best shell'),
        (
            [0] + [3000] * 6,
            spread(7),
            'has b-values from 3000 s/mm^2 on, and a tensor is fitted to those',
        ),
        ([0] + [1] * 6, spread(7), 'has b-values up to 1 alone'),
        ([0] + [-1] + [1000] * 5, spread(7), 'has b-values that are negative or no numbers'),
        ([0] + [np.nan] + [1000] * 5, spread(7), 'has b-values that are negative or no numbers'),
        ([0] + [1000] * 6, np.zeros((7, 3)), '0 directions in its best shell'),
    ],
)
def test_what_is_wrong_with_images_is_said(data, find, bvals, bvecs, said):
    write_series(data)
    folder = data / 'sub-01' / 'dwi'
    write_image(folder / 'sub-01_dwi.nii.gz', (*SHAPE, 7))
    if bvals is not None:
        np.savetxt(folder / 'sub-01_dwi.bval', [bvals], '%g')
    if bvecs is not None:
        np.savetxt(folder / 'sub-01_dwi.bvec', np.transpose(bvecs), '%.5f')
    error = only_error(find(**ASKED))
    assert 'the series of diffusion images cannot be used' in error
    assert said in error


def test_derivatives_elsewhere_need_no_description(data, find, tmp_path):
    write_series(data)
    image = write_dwi(tmp_path / 'preproc')
    (one,) = find(**ASKED, derivatives=(('preproc', tmp_path / 'preproc'),)).series
    assert taken(one) == [('dwi', image.name)]


def test_tables_that_are_ignored_are_not_read(data, find):
    write_series(data)
    image = write_dwi(data)
    write_tables(image.parent, 'dwi', [0] + [700] * 6, np.zeros((7, 3)))
    (data / '.bidsignore').write_text('sub-01_dwi.bv*\n')
    assert '0 directions in its best shell' in only_error(find(**ASKED))


def test_means_with_weighting_and_no_direction_are_left_out(data, find):
    write_series(data)
    image = write_dwi(data, directions=7)
    bvecs = np.concatenate([np.zeros((2, 3)), spread(6)])
    write_tables(image.parent, 'sub-01_dwi', [0] + [1000] * 7, bvecs)
    (one,) = find(**ASKED).series
    (item,) = [item for use in one.applications for item in use.inputs]
    assert (item.gradients.shape, item.gradients.directions) == ((*SHAPE, 7), 6)


def test_faults_of_images_that_are_not_needed_are_not_said(data, find):
    """Such as those of images with another phase encoding and without diffusion weighting."""
    write_series(data)
    write_image(data / 'sub-01/dwi/sub-01_dir-PA_dwi.nii.gz', (*SHAPE, 2))
    assert 'sub-01_dir-PA_dwi.nii.gz has no .bval' in only_error(find(**ASKED))
    image = write_dwi(data, stem='sub-01_dir-XY_dwi')
    (one,) = find(**ASKED).series
    assert not any('dir-PA' in note for note in one.notes)
    # where none can be used, the fault of the larger one counts
    write_tables(image.parent, 'sub-01_dir-XY_dwi', [0] + [3000] * 6, spread(7))
    assert 'dir-XY_dwi.bval has b-values from 3000' in only_error(find(**ASKED))
    for name, shape in (('FA', SHAPE), ('V1', (*SHAPE, 3))):
        write_image(data / f'derivatives/dti/sub-01/dwi/sub-01_{name}.nii.gz', shape)
    (one,) = find(**ASKED).series
    assert not any('_dwi' in note for note in one.notes)


def test_most_directions_are_taken(data, find):
    write_series(data)
    write_dwi(data, stem='sub-01_acq-a_dwi')
    write_dwi(data, stem='sub-01_acq-b_dwi', directions=12)
    (one,) = find(**ASKED).series
    assert taken(one) == [('dwi', 'sub-01_acq-b_dwi.nii.gz')]


def test_a_map_without_directions_gives_way_to_images(data, find):
    write_series(data)
    write_dwi(data)
    write_image(data / 'derivatives/dti/sub-01/dwi/sub-01_FA.nii.gz')
    (one,) = find(**ASKED).series
    assert taken(one) == [('dwi', 'sub-01_dwi.nii.gz')]
    said = 'sub-01_FA.nii.gz is not used, as there is no map of fibre directions beside one of fractional'
    assert any(said in note for note in one.notes)
    write_image(data / 'derivatives/dti/sub-01/dwi/sub-01_V1.nii.gz', (*SHAPE, 3))
    (one,) = find(**ASKED).series
    (note,) = [note for note in one.notes if 'sub-01_dwi.nii.gz' in note]
    assert 'sub-01_V1.nii.gz is given; take the map out to use it' in note
