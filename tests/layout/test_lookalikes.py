"""Messages name what lies where a part is missing, and how to rename it."""

import pytest

from bids_qsm.errors import UserError
from tests.skeletons import only_error, write_image, write_series, write_t1w

ONE_ECHO = {'echo_times': (0.02,), 'echoes': (1,)}


@pytest.mark.parametrize(
    ('place', 'says'),
    [
        (
            'anat/sub-01_MEGRE_e1_ph.nii.gz',
            'sub-01_MEGRE_e1_ph.nii.gz may be it, named as dcm2niix does; rename it to '
            'sub-01_echo-1_part-phase_MEGRE.nii.gz.',
        ),
        (
            'anat/sub-01_acq-x_echo-1_MEGRE_ph.nii',
            'rename it to sub-01_echo-1_part-phase_MEGRE.nii.',
        ),
        (
            'swi/sub-01_echo-1_part-phase_swi.nii.gz',
            'swi/sub-01_echo-1_part-phase_swi.nii.gz is not read there; move it to anat/ as '
            'sub-01_echo-1_part-phase_MEGRE.nii.gz',
        ),
        (
            'fmap/sub-01_phase2.nii.gz',
            'copy it to anat/ as sub-01_echo-2_part-phase_MEGRE.nii.gz, and its magnitude likewise.',
        ),
        ('fmap/sub-01_phasediff.nii.gz', 'is the difference of two phases, of which no series can be made.'),
        (
            'anat/sub-01_run-2_echo-1_part-phase_MEGRE.nii.gz',
            'sub-01_run-2_echo-1_part-phase_MEGRE.nii.gz may be it: if they are of one acquisition, give '
            'both the same run-.',
        ),
    ],
)
def test_what_may_be_the_phase(data, find, place, says):
    write_series(data, parts=('mag',), **ONE_ECHO)
    write_image(data / 'sub-01' / place)
    reasons = [one.reason for one in find().rejected]
    assert 'sub-01_echo-1_part-mag_MEGRE.nii.gz has no phase' in reasons[0]
    assert says in reasons[0]


def test_what_may_be_the_magnitude(data, find):
    write_series(data, parts=('phase',), entities='acq-ph', **ONE_ECHO)
    write_series(data, parts=('mag',), entities='acq-mag', **ONE_ECHO)
    first, second = find().rejected
    assert 'acq-ph_echo-1_part-phase_MEGRE.nii.gz may be it: if they are of one' in first.reason
    assert 'acq-mag_echo-1_part-mag_MEGRE.nii.gz may be it: if they are of one' in second.reason


def test_a_participant_without_a_series(data, find):
    write_t1w(data)
    write_image(data / 'sub-01/ses-1/swi/sub-01_ses-1_part-phase_swi.nii.gz')
    says = r'sub-01 has no series: swi/.* move it to anat/ as sub-01_ses-1_part-phase_T2starw.nii.gz'
    with pytest.raises(UserError, match=says):
        find()
    write_series(data, sub='02')
    plan = find()
    assert [one.name for one in plan.series] == ['sub-02']
    assert 'sub-01 has no series: swi/' in plan.notes[0]


def test_four_dimensions(data, find):
    write_series(data, shape=(8, 9, 7, 3), echoes=(None,), echo_times=(0.004,))
    says = 'the first sub-01_echo-1_part-mag_MEGRE.nii.gz, each with its EchoTime in a sidecar'
    assert says in only_error(find())
