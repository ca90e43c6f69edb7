"""Texts of people in headers: what is told of them, in any alphabet."""

import json
from dataclasses import replace

import pydicom
import pytest

from bids_qsm.dicom.privacy import names_person
from bids_qsm.dicom.table import read_rows
from tests.dicom.scanners import Scan, write_classic

ALPHABETS = {
    'ISO_IR 192': ('Müller^Erika', 'Müller'),
    'ISO_IR 101': ('Dvořák^Jana', 'DVOŘÁK'),
    'ISO_IR 144': ('Иванов^Пётр', 'иванов'),
    'GB18030': ('Wang^Xiaoming=王^小明=', '王小明'),
    '\\ISO 2022 IR 149': ('Kim^Chulsoo=^=김^철수', '김철수'),
    '\\ISO 2022 IR 87': ('Yamada^Tarou=山田^太郎', '山田→太郎'),
}


T1W = {
    'parts': ('mag',),
    'echo_times': (3,),
    'tags': {'InversionTime': 900, 'SequenceVariant': 'MP'},
}
"""One image, as a series becomes that is imported without phase."""


def write(folder, scan, alphabet='ISO_IR 100'):
    for path in write_classic(folder / scan.patient, replace(scan, name='', description='x')):
        one = pydicom.dcmread(path)
        one.SpecificCharacterSet = alphabet.split('\\')
        one.PatientName, one.SeriesDescription = scan.name, scan.description
        one.save_as(path)


def sidecars(tmp_path):
    """Of the image of each patient."""
    by_subject = {row.subject: row.others['patient_id'] for row in read_rows(tmp_path / 'bids_import.tsv')}
    paths = (tmp_path / 'bids').rglob('*_T1w.json')
    return {by_subject[path.name[4:6]]: json.loads(path.read_text(encoding='utf-8')) for path in paths}


def test_no_name_of_any_alphabet_is_told_and_none_stops_the_import(tmp_path, bring_in):
    scan = Scan('Siemens', 5, **T1W)
    for alphabet, (name, text) in ALPHABETS.items():
        patient = f'P{len(alphabet)}{alphabet[-1]}'
        write(
            tmp_path / 'dicom', replace(scan, patient=patient, name=name, description=f'QSM {text}'), alphabet
        )
    whole = replace(scan, patient='whole', name='Aa^Bb', description='QSM \x01größer', protocol='a\x02"b')
    write(tmp_path / 'dicom', whole, 'ISO_IR 192')
    assert bring_in() == 0
    found = sidecars(tmp_path)
    assert len(found) == len(ALPHABETS) + 1
    assert {key: one.get('SeriesDescription') for key, one in found.items()} == {
        **dict.fromkeys(found),
        'whole': 'QSM \x01größer',
    }
    assert all(one['ProtocolName'] for one in found.values())


def test_names_do_not_take_words_of_the_standard_away(tmp_path, bring_in):
    scan = Scan('Siemens', 5, description='primary GE', **T1W)
    for vendor, name in (('GE', 'Ge^Li'), ('Philips', 'Philips^Mary'), ('Siemens', 'Smith^Gina^^Mr')):
        write(tmp_path / 'dicom', replace(scan, vendor=vendor, patient=vendor, name=name))
    assert bring_in() == 0
    for vendor, one in sidecars(tmp_path).items():
        assert (one['Manufacturer'], one['Modality']) == (vendor, 'MR')
        assert one['ImageType'][:2] == ['ORIGINAL', 'PRIMARY']
        assert ('SeriesDescription' in one) == (vendor == 'Siemens')


@pytest.mark.parametrize(
    ('text', 'name', 'is_named'),
    [
        ('QSM Mustermann', 'Mustermann2^Erika', True),
        ('QSM_gre', 'QSM01', False),
        ('QSM LiGe', 'Ge^Li', True),
        ('QSM 小 明', 'Wang^Xiaoming=王^小明', True),
        ('QSM 기본', 'Kim^Chulsoo=김^철수', False),
    ],
)
def test_names_are_found_in_any_writing(text, name, is_named):
    assert names_person(text, ('1', name, '')) == is_named
