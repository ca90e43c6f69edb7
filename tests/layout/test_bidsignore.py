"""What .bidsignore names is not read."""

from pathlib import Path

import pytest

from bids_qsm.errors import UserError
from bids_qsm.layout.bidsignore import BidsIgnore
from tests.skeletons import write_image, write_series, write_t1w


@pytest.mark.parametrize(
    ('lines', 'left_out'),
    [
        (['# a comment', '', 'sub-02/'], ['b', 'c']),
        (['/sub-02/ses-1'], ['b']),
        (['*_T1w.nii.gz'], ['a', 'c']),
        (['**/ses-*/anat/sub-02_*'], ['b', 'c']),
        (['sub-0?/anat/'], ['a']),
        (['sub-0[!1]/**', '!*_T1w.nii.gz'], ['b']),
        (['anat'], ['a', 'b', 'c']),
        (['ses-1/anat'], []),
        (['[z-a]', 'SUB-02'], []),
    ],
)
def test_patterns_are_those_of_gitignore(lines, left_out):
    names = {
        'a': 'sub-01/anat/sub-01_T1w.nii.gz',
        'b': 'sub-02/ses-1/anat/sub-02_ses-1_MEGRE.nii.gz',
        'c': 'sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz',
    }
    ignores = BidsIgnore(Path('/data'), lines)
    assert [key for key, name in names.items() if ignores(Path('/data') / name)] == left_out
    assert not ignores(Path('/elsewhere/sub-02/anat/x.nii'))


@pytest.mark.parametrize('stored', [False, True])
def test_images_and_participants_are_left_out(data, find, tmp_path, stored):
    options = {'bids_database_dir': tmp_path / 'index'} if stored else {}
    for sub in ('01', '02'):
        write_series(data, sub=sub)
    write_series(data, entities='acq-bad')
    t1w = write_t1w(data)
    write_image(t1w.with_name('sub-01_acq-0.8_MEGRE.nii.gz'))
    (data / '.bidsignore').write_text('sub-02/\n*_acq-*\n*_T1w.nii.gz\n')
    for _ in range(2):
        plan = find(**options)
        assert [one.name for one in plan.series] == ['sub-01']
        assert plan.series[0].t1w is None
        assert plan.rejected == ()
        (note,) = plan.notes
        assert note.startswith('8 images are left out by .bidsignore, such as sub-01_T1w.nii.gz')
    (data / '.bidsignore').write_text('*_MEGRE.nii.gz\n')
    with pytest.raises(UserError, match=r'no series to run.*19 images are left out by \.bidsignore'):
        find(**options)
