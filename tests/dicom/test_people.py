"""Who is who: one person, two people, and what only looks like either."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pydicom
import pytest

from bids_qsm.dicom.headers import read_folder
from bids_qsm.dicom.people import warnings_of
from bids_qsm.dicom.plan import make_rows
from bids_qsm.dicom.table import read_rows, write_rows
from bids_qsm.errors import UserError
from tests.dicom.scanners import Scan, write_classic

ONE = Scan('Siemens', 5, echo_times=(9,))


def plan(tmp_path, *scans, known=(), subject=None, session=None):
    """Rows of a folder of studies, and what is said of their people."""
    for n, scan in enumerate(scans):
        write_classic(tmp_path / 'dicom' / str(n), scan)
    rows = make_rows(read_folder(tmp_path / 'dicom'), known, subject, session)
    return rows, ' '.join(warnings_of(rows, known))


def labels(rows):
    return sorted({(row.subject, row.session) for row in rows})


APART, JOINED = [('01', ''), ('02', '')], [('01', '1'), ('01', '2')]


@pytest.mark.parametrize(
    ('first', 'second', 'people', 'said'),
    [
        # dates of birth that anonymisers write, or that cannot be
        ({'patient': 'ANON', 'name': 'ANON', 'born': '19700101'}, {}, APART, 'may be one person'),
        ({'born': '20990812'}, {}, APART, 'may be one person'),
        ({'born': '19640231'}, {}, APART, 'may be one person'),
        ({}, {'tags': {'PatientSex': 'M'}}, APART, 'may be one person'),
        ({}, {'born': ''}, APART, 'may be one person'),
        ({}, {'name': 'Mustermann^Erik'}, APART, 'may be one person'),
        # how scanners spell one name
        (
            {},
            {'name': 'MUSTERMANN^ ERIKA^^'},
            JOINED,
            '2 studies, whose ID, name, date of birth and sex agree',
        ),
    ],
)
def test_two_studies_are_of_one_person_where_nothing_speaks_against_it(first, second, people, said, tmp_path):
    scan = replace(ONE, **first)
    rows, words = plan(tmp_path, scan, replace(scan, study=2, date='20240401', **second))
    assert labels(rows) == people
    assert said in words


def test_patients_of_equal_uids_stay_two(tmp_path, bring_in, capsys):
    people = ONE, replace(ONE, name='Other^One', born='19700303', seed=3)
    for scan in people:  # with the UIDs of one ID
        write_classic(tmp_path / 'dicom' / scan.name, scan)
        write_classic(tmp_path / 'dicom' / f'copy of {scan.name}', scan)
    assert bring_in() == 0
    said = capsys.readouterr().out
    for subject in ('01', '02'):  # the copies of each count for nothing
        about = (
            f'sub-{subject}: 4 files of series 5 (magnitude) and 1 more series have SOP Instance UIDs that'
        )
        assert about in said
    rows = read_rows(tmp_path / 'bids_import.tsv')
    assert len({row.series_uid for row in rows}) == 1
    sizes = []
    for subject in ('01', '02'):
        (path,) = (tmp_path / 'bids' / f'sub-{subject}').rglob('*part-mag*.nii.gz')
        sizes.append(nib.load(path).get_fdata().mean())
    truths = [np.round(scan.truth('mag', 9)).mean() for scan in people]
    np.testing.assert_allclose(sorted(sizes), sorted(truths))
    assert bring_in() == 0


def test_images_of_one_uid_at_several_places_are_all_used(tmp_path):
    for path in write_classic(tmp_path, replace(ONE, parts=('mag',))):
        one = pydicom.dcmread(path)
        one.SOPInstanceUID = '1.2.3'
        one.save_as(path)
    (group,) = read_folder(tmp_path).groups
    assert (group.size, group.repeated) == ((8, 7, 4), 4)


def test_a_table_does_not_make_two_known_people_one(tmp_path):
    other = replace(ONE, patient='B', name='Other^One', born='19700303', number=7)
    rows, _ = plan(tmp_path, ONE, other)
    for row in rows:
        row.subject, row.session = '01', row.others['series_number']
    with pytest.raises(UserError, match=r'series 5 and 7 are both sub-01 .* have nothing in common'):
        plan(tmp_path, known=rows)
    plan(tmp_path, ONE, replace(other, name=ONE.name, born=ONE.born))
    rows, _ = plan(tmp_path)
    for row in rows:
        row.subject, row.session = '01', row.others['series_number']
    rows, words = plan(tmp_path, known=rows)
    assert 'sub-01 is 2 patients by the headers (series 5, 7)' in words
    plan(tmp_path, ONE, replace(other, name=ONE.name, born=ONE.born, tags={'PatientSex': 'M'}))
    rows, _ = plan(tmp_path)
    for row in rows:
        row.subject, row.session = '01', row.others['series_number']
    with pytest.raises(UserError, match='of a man and of a woman'):
        plan(tmp_path, known=rows)


def test_a_label_that_differs_from_the_table_is_refused(tmp_path):
    known, _ = plan(tmp_path, ONE)
    write_rows(tmp_path / 'table.tsv', known)
    known = read_rows(tmp_path / 'table.tsv')
    with pytest.raises(UserError, match='--participant-label 07 was given, but the table has 01'):
        plan(tmp_path, known=known, subject='07')
    with pytest.raises(UserError, match='--session-label pre was given, but the table has none'):
        plan(tmp_path, known=known, session='pre')
    assert labels(plan(tmp_path, known=known, subject='01')[0]) == [('01', '')]
