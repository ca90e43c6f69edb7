import shutil
from dataclasses import replace

import pydicom
import pytest

from bids_qsm.dicom.headers import read_folder
from bids_qsm.dicom.importing import run_import
from bids_qsm.dicom.plan import make_rows
from bids_qsm.dicom.privacy import names_person
from bids_qsm.dicom.table import SKIP, UNCLEAR, name_problem, read_rows, write_rows
from bids_qsm.errors import UserError
from tests.dicom.scanners import Scan, write_classic

ONE = {'echo_times': (5, 12)}


def names(rows):
    return {key: row.name for key, row in rows.items()}


@pytest.fixture
def write(tmp_path):
    """A function that writes scans, each part as a series of its own where ``apart``."""

    def write(*scans):
        for scan in scans:
            write_classic(tmp_path / 'dicom' / f'{scan.patient}{scan.study}{scan.number}', scan)

    return write


def pair(number, **settings):
    """Magnitude and phase as Siemens stores them: two series of one time."""
    settings = {**ONE, **settings}
    first = Scan('Siemens', number, parts=('mag',), **settings)
    return first, replace(first, number=number + 1, parts=('phase',))


def test_runs_of_one_protocol_are_told_apart_by_their_times(write, planned):
    write(*pair(4, time=36000), *pair(8, time=36600))
    assert names(planned()) == {
        (4, 'mag'): 'run-1_MEGRE',
        (5, 'phase'): 'run-1_MEGRE',
        (8, 'mag'): 'run-2_MEGRE',
        (9, 'phase'): 'run-2_MEGRE',
    }


def test_protocols_of_one_kind_get_acq_and_a_single_echo_t2starw(write, planned):
    write(*pair(4), *pair(8, protocol='QSM_fine', time=37000), *pair(12, echo_times=(20,), time=38000))
    found = names(planned())
    assert found[4, 'mag'] == found[5, 'phase'] == 'acq-QSMgre_MEGRE'
    assert found[8, 'mag'] == found[9, 'phase'] == 'acq-QSMfine_MEGRE'
    assert found[12, 'mag'] == found[13, 'phase'] == 'T2starw'


def test_two_magnitudes_for_one_phase_are_asked_for_until_one_is_left_out(write, planned):
    magnitude, phase = pair(4)
    write(magnitude, phase, replace(magnitude, number=6, image_type='ORIGINAL\\PRIMARY\\M\\ND\\NORM'))
    rows = planned()
    assert set(names(rows).values()) == {UNCLEAR}
    assert 'series 4 (magnitude), series 6 (magnitude)' in rows[5, 'phase'].note
    rows[6, 'mag'].name = SKIP
    again = planned(list(rows.values()))
    assert names(again) == {(4, 'mag'): 'MEGRE', (5, 'phase'): 'MEGRE', (6, 'mag'): SKIP}


def test_a_magnitude_that_a_person_named_takes_its_phase(write, planned):
    magnitude, phase = pair(4)
    write(magnitude, phase, replace(magnitude, number=6))
    rows = planned()
    rows[4, 'mag'].name = 'acq-x_MEGRE'
    rows = planned(list(rows.values()))
    assert 'it fits series 4 (magnitude), series 6 (magnitude)' in rows[5, 'phase'].note
    rows[6, 'mag'].name = SKIP
    assert names(planned(list(rows.values()))) == {
        (4, 'mag'): 'acq-x_MEGRE',
        (5, 'phase'): 'acq-x_MEGRE',
        (6, 'mag'): SKIP,
    }


def test_runs_whose_times_were_removed_are_not_guessed(write, planned, tmp_path):
    runs = pair(4, echo_times=(9,), has_times=False), pair(8, echo_times=(9,), has_times=False)
    write(*runs[0], *runs[1])
    rows = planned()
    assert set(names(rows).values()) == {UNCLEAR}
    assert 'fits' in rows[4, 'mag'].note
    # halves of two runs
    for path in ('HOSP-773115', 'HOSP-773118'):
        shutil.rmtree(tmp_path / 'dicom' / path)
    rows = planned()
    assert set(names(rows).values()) == {UNCLEAR}
    assert 'it fits series 9 (phase), but no times tell' in rows[4, 'mag'].note
    # series that follow each other are one
    write(runs[1][0])
    rows[4, 'mag'].name = SKIP
    assert names(planned([rows[4, 'mag']])) == {
        (4, 'mag'): SKIP,
        (8, 'mag'): 'T2starw',
        (9, 'phase'): 'T2starw',
    }


def test_an_acquisition_saved_with_and_without_correction_is_one(write, planned):
    corrected = pair(4, echo_times=(9,))
    write(
        *(
            replace(one, image_type=f'ORIGINAL\\PRIMARY\\{one.parts[0][0].upper()}\\DIS2D')
            for one in corrected
        )
    )
    write(*pair(6, echo_times=(9,)))
    rows = planned()
    assert names(rows) == {
        (4, 'mag'): SKIP,
        (5, 'phase'): SKIP,
        (6, 'mag'): 'T2starw',
        (7, 'phase'): 'T2starw',
    }
    assert rows[4, 'mag'].note == 'the same acquisition as series 6 (magnitude), corrected for distortion'


def test_words_of_protocols_do_not_drop_gradient_echoes(write, planned):
    for number, protocol in ((4, 'QSM_pilot'), (6, 'Ax QSM ASSET'), (8, 'scout')):
        write(*pair(number, protocol=protocol, echo_times=(9,)))
    rows = planned()
    assert {number: row.name for (number, _), row in rows.items()} == {
        4: 'acq-QSMpilot_T2starw',
        5: 'acq-QSMpilot_T2starw',
        6: 'acq-AxQSMASSET_T2starw',
        7: 'acq-AxQSMASSET_T2starw',
        8: UNCLEAR,
        9: UNCLEAR,
    }
    assert 'a localizer, as its description says, but it has phase' in rows[8, 'mag'].note


@pytest.mark.parametrize(
    ('settings', 'why'),
    [
        ({'echo_times': (5, 13)}, 'their echo times differ (5, 12 and 5, 13 ms)'),
        ({'degrees': 15.0}, 'they differ in place'),
        ({'seed': 1}, 'they differ in place'),
        ({'time': 36300}, 'they were acquired 300 s apart'),
        ({'protocol': 'QSM_fine'}, 'they are of two protocols'),
        ({'tags': {'FlipAngle': 20}}, 'they differ in FlipAngle'),
        (
            {'image_type': 'ORIGINAL\\PRIMARY\\P\\DIS3D'},
            'they are not corrected for distortion alike (DIS3D)',
        ),
        ({'image_type': 'ORIGINAL\\PRIMARY\\P\\GDC'}, 'they are not corrected for distortion alike (GDC)'),
    ],
)
def test_a_phase_of_another_acquisition_is_no_half(settings, why, write, planned):
    magnitude, phase = pair(4)
    write(magnitude, replace(phase, **settings))
    rows = planned()
    assert names(rows) == {(4, 'mag'): SKIP, (5, 'phase'): UNCLEAR}
    assert f'series 4 (magnitude), but {why}' in rows[5, 'phase'].note


def test_a_phase_difference_is_left_out(write, planned):
    magnitude, phase = pair(4, protocol='gre_2echo')
    write(magnitude, replace(phase, echo_times=(12,)))
    rows = planned()
    assert names(rows) == {(4, 'mag'): SKIP, (5, 'phase'): SKIP}
    assert rows[5, 'phase'].note.startswith('a phase difference of a field map')


def test_echoes_stored_as_series_are_one(write, planned):
    first, phase = pair(4, echo_times=(5,))
    write(first, phase, *(replace(one, number=one.number + 2, echo_times=(12,)) for one in (first, phase)))
    assert set(names(planned()).values()) == {'MEGRE'}


def test_echoes_stored_as_series_without_times_are_asked_for(write, planned):
    first = pair(4, echo_times=(5,), has_times=False)
    write(*first, *(replace(one, number=one.number + 2, echo_times=(12,)) for one in first))
    rows = planned()
    assert set(names(rows).values()) == {UNCLEAR}
    assert all('differ from it in echo time alone' in row.note for row in rows.values())


def test_one_echo_whose_time_is_rounded_is_one(write, planned):
    magnitude, phase = pair(4, echo_times=(20,))
    write(magnitude, replace(phase, echo_times=(20.001,)))
    assert set(names(planned()).values()) == {'T2starw'}


def test_what_a_scanner_also_stores(write, planned):
    magnitude, phase = pair(4)
    t1w = {'parts': ('mag',), 'echo_times': (3,)}
    prepared = {**t1w, 'tags': {'InversionTime': 900, 'SequenceVariant': 'MP'}, 'protocol': 't1_mprage'}
    inverted = {'ScanningSequence': 'SE', 'InversionTime': 2500}
    write(
        magnitude,
        phase,
        Scan('Siemens', 1, protocol='localizer', **t1w),
        Scan('Siemens', 6, image_type='DERIVED\\PRIMARY\\M\\MNIP', protocol='QSM_gre', **t1w),
        Scan('Siemens', 7, image_type='ORIGINAL\\PRIMARY\\M\\SWI', protocol='QSM_gre', **t1w),
        Scan('Siemens', 10, time=39000, **prepared),
        Scan('Siemens', 11, time=39000, image_type='ORIGINAL\\PRIMARY\\M\\ND\\NORM', **prepared),
        Scan('Siemens', 12, protocol='ax_flair', tags=inverted, **t1w),
        *pair(14, protocol='gre_field_mapping'),
        Scan('Siemens', 16, protocol='tof_3d', **t1w),
        Scan('Siemens', 17, protocol='dti_64', tags={'ScanningSequence': 'EP'}, **t1w),
        Scan('Siemens', 18, protocol='ct', tags={'Modality': 'CT'}, **t1w),
    )
    rows = planned()
    used = {key: name for key, name in names(rows).items() if name != SKIP}
    assert used == {
        (4, 'mag'): 'MEGRE',
        (5, 'phase'): 'MEGRE',
        (11, 'mag'): 'T1w',
        (12, 'mag'): 'FLAIR',
    }
    notes = {number: row.note for (number, _), row in rows.items() if row.name == SKIP}
    for number, word in {
        1: 'localizer',
        6: 'projection',
        7: 'SWI',
        10: 'same acquisition as series 11',
        14: 'field map',
        15: 'field map',
        16: 'angiography',
        17: 'write dwi',
        18: 'write CT',
    }.items():
        assert word in notes[number]


def test_missing_slices_and_repetitions_are_said(write, planned, tmp_path):
    write(*pair(4), *pair(8, time=37000))
    for path in (tmp_path / 'dicom' / 'HOSP-773114').glob('*_00003.dcm'):
        path.unlink()
    folder = tmp_path / 'dicom' / 'HOSP-773118'
    for path in sorted(folder.glob('*.dcm')):
        one = pydicom.dcmread(path)
        one.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[f'again {one.SOPInstanceUID}'])
        one.save_as(path.with_name(f'again-{path.name}'))
    rows = planned()
    assert 'slices are missing' in rows[4, 'mag'].note
    assert 'holds 2 images of each slice' in rows[8, 'mag'].note
    assert {rows[number, part].name for number, part in ((4, 'mag'), (5, 'phase'), (8, 'mag'))} == {UNCLEAR}


def test_a_t1w_that_is_not_whole_is_no_success(write, planned, tmp_path):
    t1w = {'parts': ('mag',), 'echo_times': (3,), 'protocol': 't1_mprage', 'tags': {'SequenceVariant': 'MP'}}
    write(Scan('Siemens', 4, **t1w))
    next((tmp_path / 'dicom').rglob('*_00003.dcm')).unlink()
    (row,) = planned().values()
    assert row.name == UNCLEAR
    assert 'slices are missing' in row.note


def test_patients_and_studies_get_numbers_and_keep_them(write, tmp_path):
    second = {'patient': 'B', 'name': 'Other^One'}
    write(
        *pair(4, echo_times=(9,), **second),
        *pair(4, echo_times=(9,), **second, study=2, date='20240401'),
        *pair(4, echo_times=(9,), patient='C'),
    )
    table = tmp_path / 'table.tsv'
    write_rows(table, _all_rows(tmp_path))
    known = read_rows(table)
    assert {(r.others['patient_id'], r.others['date'], r.subject, r.session) for r in known} == {
        ('B', '20240301', '01', '1'),
        ('B', '20240401', '01', '2'),
        ('C', '20240301', '02', '1'),
    }
    # a new patient that sorts first gets a new number, also where the files of others lie elsewhere now
    shutil.rmtree(tmp_path / 'dicom' / 'B14')
    write(
        *pair(4, echo_times=(9,), patient='A', name='Third^One'),
        *pair(4, echo_times=(9,), **second, study=3, date='20240501'),
    )
    later = _all_rows(tmp_path, known)
    assert {(r.others['patient_id'], r.others['date'], r.subject, r.session) for r in later[6:]} == {
        ('A', '20240301', '03', '1'),
        ('B', '20240501', '01', '3'),
    }


def _all_rows(tmp_path, known=()):
    return make_rows(read_folder(tmp_path / 'dicom'), known, None, None)


def test_one_id_of_two_people_gives_two_participants(write, planned, tmp_path):
    write(
        *pair(4, echo_times=(9,), patient='ANON', name='A^A'),
        *pair(6, echo_times=(9,), patient='ANON', name='B^B', study=2),
    )
    assert {row.others['series_number']: row.subject for row in _all_rows(tmp_path)} == {
        '4': '01',
        '5': '01',
        '6': '02',
        '7': '02',
    }
    with pytest.raises(UserError, match='the folder holds 2 patients'):
        planned(subject='07')


def test_a_label_of_another_patient_is_refused(write, planned, tmp_path):
    write(*pair(4, echo_times=(9,)))
    known = list(planned(subject='01').values())
    shutil.rmtree(tmp_path / 'dicom')
    write(*pair(6, echo_times=(9,), patient='B', name='Other^One'))
    with pytest.raises(UserError, match='in the table sub-01 is another patient; choose another label'):
        planned(known, subject='01')
    assert {row.subject for row in planned(known).values()} == {'02'}
    # unless the table says so
    own = [replace(row, subject='01') for row in planned(known).values()]
    with pytest.raises(UserError, match='series 4 and 6 of sub-01 are of two studies, but have one name'):
        planned([*known, *own], subject='01')
    for n, row in enumerate((*known, *own)):
        row.session = str(n // 2 + 1)
    assert {row.subject for row in planned([*known, *own], subject='01').values()} == {'01'}


def test_a_label_of_the_dataset_needs_its_table(write, tmp_path):
    write(*pair(4, echo_times=(9,)))
    (tmp_path / 'bids' / 'sub-7').mkdir(parents=True)
    for label in ('7', '07'):
        with pytest.raises(UserError, match='has sub-7 already, but'):
            run_import(tmp_path / 'dicom', tmp_path / 'bids', subject=label, dry_run=True)


@pytest.mark.parametrize('who', [('ANON', ''), ('ANON', '19000101'), ('', '')])
def test_studies_that_may_be_of_several_people_are_kept_apart(who, write, tmp_path, capsys):
    patient, born = who
    nobody = {'patient': patient, 'name': patient, 'born': born, 'echo_times': (9,)}
    write(*pair(4, **nobody), *pair(4, **nobody, study=2))
    table = tmp_path / 'bids_import.tsv'
    together = 'sub-01 and sub-02 may be one person'
    for is_first in (True, False):  # said where one is new
        run_import(tmp_path / 'dicom', tmp_path / 'bids', dry_run=True)
        assert (together in capsys.readouterr().out) == is_first
        rows = read_rows(table)
        assert {(row.subject, row.session, row.name) for row in rows} == {
            ('01', '', 'T2starw'),
            ('02', '', 'T2starw'),
        }
    # a person may write that they are one
    studies = list(dict.fromkeys(row.others['study_uid'] for row in rows))
    for row in rows:
        row.subject, row.session = '01', str(1 + studies.index(row.others['study_uid']))
    write_rows(table, rows)
    assert run_import(tmp_path / 'dicom', tmp_path / 'bids', dry_run=True) == 0
    assert 'may be one person' not in capsys.readouterr().out
    shutil.rmtree(tmp_path / 'dicom')
    write(*pair(4, **nobody, study=3))
    run_import(tmp_path / 'dicom', tmp_path / 'bids', dry_run=True)
    assert together in capsys.readouterr().out
    assert {row.subject for row in read_rows(table)[4:]} == {'02'}


def test_a_label_for_all_makes_studies_without_a_date_of_birth_one_person(write, planned):
    nobody = {'patient': 'P7', 'name': 'P7', 'born': '', 'echo_times': (9,)}
    write(*pair(4, **nobody), *pair(6, **nobody, study=2, date='20240401'))
    with pytest.raises(UserError, match='--session-label a was given'):
        planned(subject='07', session='a')
    found = planned(subject='07')
    assert {(row.subject, row.session, key[0]) for key, row in found.items()} == {
        *(('07', '1', number) for number in (4, 5)),
        *(('07', '2', number) for number in (6, 7)),
    }
    write(*pair(8, **nobody, study=3, tags={'PatientSex': 'M'}))
    with pytest.raises(UserError, match='of a man and of a woman'):
        planned(subject='07')
    write(*pair(10, **{**nobody, 'name': 'P8'}, study=4))
    with pytest.raises(UserError, match='the folder holds 2 patients'):
        planned(subject='07')


def test_numbers_follow_the_date_and_not_the_id(write, tmp_path):
    write(*pair(4, echo_times=(9,), patient='A'), *pair(4, echo_times=(9,), patient='B', date='20231224'))
    assert {row.others['patient_id']: row.subject for row in _all_rows(tmp_path)} == {'B': '01', 'A': '02'}


@pytest.mark.parametrize(
    ('text', 'is_named'),
    [
        ('QSM Schmidt', True),
        ('qsm_lena_1mm', True),
        ('QSM Rene', True),
        ('QSM Mueller', True),
        ('QSM Muller', True),
        ('QSM hosp7731', True),
        ('12.08.1964', True),
        ('born 12.8.64', True),
        ('08/12/1964', True),
        ('1964-08-12', True),
        ('640812', True),
        ('12 Aug 1964', True),
        ('Li_QSM', True),
        ('t2_swi_tra_p2_1.5mm Slim', False),
        ('qsm 1964 81 x 64 x 12', False),
    ],
)
def test_names_and_dates_are_found_however_written(text, is_named):
    person = 'HOSP-7731', 'Müller-Schmidt^Anna-Lena René Li', '19640812'
    assert names_person(text, person) == is_named


def test_a_table_that_contradicts_itself_is_refused(write, planned):
    write(*pair(4))
    rows = list(planned().values())
    rows[0].subject = '09'
    with pytest.raises(UserError, match='one patient to sub-09 and to sub-01'):
        planned(rows)
    rows[0].subject, rows[0].session = rows[1].subject, '1'
    with pytest.raises(UserError, match='in all lines of sub-01, in the column session'):
        planned(rows)


@pytest.mark.parametrize(
    ('column', 'value', 'message'),
    [
        ('subject', 'Ann Lee', 'no label of letters and digits'),
        ('session', 'a/b', 'no label of letters and digits'),
        ('name', '../x_MEGRE', 'is none of'),
        ('name', 'magnitude', 'last word of a name'),
        ('name', 'run-x_MEGRE', 'is none of'),
        ('name', 'bold', 'needs a task-'),
        ('name', 'run-1_run-2_MEGRE', 'stands there twice'),
    ],
)
def test_wrong_cells_of_the_table_are_named(column, value, message, write, planned, tmp_path):
    write(*pair(4, echo_times=(9,)))
    rows = list(planned().values())
    setattr(rows[1], column, value)
    write_rows(tmp_path / 'table.tsv', rows)
    with pytest.raises(UserError, match=rf'line 3 of .*{message}'):
        read_rows(tmp_path / 'table.tsv')


def test_a_table_from_a_spreadsheet_is_read(write, planned, tmp_path):
    write(*pair(4, echo_times=(9,)))
    rows = list(planned().values())
    table = tmp_path / 'table.tsv'
    write_rows(table, rows)
    assert table.stat().st_mode & 0o077 == 0
    lines = [line.split('\t') for line in table.read_text().splitlines()]
    quoted = [','.join(f'"{cell}"' for cell in line) for line in lines]
    table.write_text('\ufeff' + '\r\n'.join(quoted) + '\r\n', encoding='utf-8')
    assert [row.stem for row in read_rows(table)] == [row.stem for row in rows]
    table.write_text('subject\tname\n')
    with pytest.raises(UserError, match="no column 'session'"):
        read_rows(table)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text.encode('utf-16'), 'save it as a text in UTF-8'),
        (lambda text: text.replace('QSM_gre', 'Zürich').encode('cp1252'), 'save it as a text in UTF-8'),
        (lambda text: text.replace('patient_id', '').encode(), "no column 'patient_id'"),
        (lambda text: text.replace('\t', ';').encode(), "no column 'subject'; save it as a text in UTF-8"),
        (lambda text: text.replace('T2starw\t', 'T2starw\t"', 1).encode(), 'after line 1 .*quotation marks'),
        (lambda text: text.replace('T2starw\t', 'T2starw\t"').encode(), 'after line 1 .*quotation marks'),
        (lambda text: text.replace('T2starw\t', 'T2starw\t\t').encode(), 'after line 1 .*tabs'),
    ],
)
def test_a_table_saved_otherwise_is_refused_with_advice(change, message, write, planned, tmp_path):
    write(*pair(4, echo_times=(9,)))
    table = tmp_path / 'table.tsv'
    write_rows(table, list(planned().values()))
    table.write_bytes(change(table.read_text()))
    with pytest.raises(UserError, match=message):
        read_rows(table)


def test_columns_of_the_user_stay_and_only_the_user_may_read_them(write, planned, tmp_path):
    write(*pair(4, echo_times=(9,)))
    table = tmp_path / 'table.tsv'
    write_rows(table, list(planned().values()))
    lines = zip(table.read_text().splitlines(), ('seen', 'yes', ''), strict=True)
    table.write_text('\n'.join(map('\t'.join, lines)))
    for _ in range(2):
        table.chmod(0o644)  # also where the text stays
        write_rows(table, list(planned(read_rows(table)).values()))
        assert [row.others['seen'] for row in read_rows(table)] == ['yes', '']
        assert table.stat().st_mode & 0o077 == 0


def test_long_texts_of_headers_are_cut(write, planned, tmp_path):
    times = {'EchoPlanarPulseSequence': 'YES', 'ScanningSequence': 'EP'}
    for n in (1, 2):  # volumes of one run
        write(Scan('GE', 8, f'{n}', parts=('mag',), echo_times=(9,), time=36000 + n, tags=times))
        folder = tmp_path / 'dicom' / 'HOSP-773118'
        folder.rename(folder.with_name(f'{n}'))
    with pydicom.config.disable_value_validation():
        for path in (tmp_path / 'dicom').rglob('*.dcm'):
            one = pydicom.dcmread(path)
            one.SeriesDescription, one.ProtocolName = 'd' * 60_000, f'task-{"x" * 300}'
            one.SOPInstanceUID = f'1.2.{path.parent.name}.{one.InstanceNumber}'
            one.save_as(path)
        (row,) = planned().values()
    assert row.name == f'task-{"x" * 30}_bold'
    write_rows(tmp_path / 'table.tsv', [row])
    assert read_rows(tmp_path / 'table.tsv')[0].others['description'] == 'd' * 200


def test_texts_that_spreadsheets_change_keep_the_table(write, planned, tmp_path):
    write(*pair(4, echo_times=(9,), description='"quoted', protocol='=1+1'))
    rows, table = list(planned().values()), tmp_path / 'table.tsv'
    write_rows(table, rows)
    assert "'=1+1" in table.read_text()
    again = read_rows(table)
    assert [row.others['description'] for row in again] == ['"quoted', '"quoted']
    assert [row.others['protocol'] for row in again] == ['=1+1', '=1+1']
    before = table.read_text()
    write_rows(table, again)
    assert table.read_text() == before
    # 01 as a number
    rows[0].subject = '1'
    write_rows(table, rows)
    with pytest.raises(UserError, match="subject '01' is '1' in another line; spreadsheets drop zeros"):
        read_rows(table)
    rows[1].subject = '1'
    write_rows(table, rows)
    (tmp_path / 'bids' / 'sub-01').mkdir(parents=True)
    with pytest.raises(UserError, match=r'has sub-01, but .* has the participant 1'):
        run_import(tmp_path / 'dicom', tmp_path / 'bids', table=table)


def test_a_person_is_asked_and_the_answers_are_kept(write, tmp_path, capsys):
    magnitude, phase = pair(4, echo_times=(9,))
    write(magnitude, phase, replace(magnitude, number=6))
    questions, answers = [], iter(['magnitude', 'skip', 'no more'])

    def ask(question):
        questions.append(question)
        return next(answers)

    code = run_import(tmp_path / 'dicom', tmp_path / 'bids', ask=ask, dry_run=True)
    rows = read_rows(tmp_path / 'bids_import.tsv')
    assert code == 0
    assert len(questions) == 2
    assert "'magnitude' cannot be used" in capsys.readouterr().out
    assert sorted(row.name for row in rows) == ['T2starw', 'T2starw', SKIP]
    assert not (tmp_path / 'bids').exists()


def test_names_of_all_kinds_are_allowed():
    for name in ('MEGRE', 'acq-a_run-2_T2starw', 'task-rest_dir-AP_bold', 'dwi', 'CT', 'rec-norm_T1w', SKIP):
        assert name_problem(name) is None
