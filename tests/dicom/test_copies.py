"""Files of one identity through the import: copies count once, and where they differ nothing is guessed."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from bids_qsm.dicom.headers import read_folder
from bids_qsm.dicom.table import read_rows, write_rows
from tests.dicom.scanners import Scan, write_classic, write_enhanced

SCAN = Scan('Siemens', 5, echo_times=(5,))
"""Four slices of a magnitude, then four of a phase."""


def mirror(one):
    one.PixelData = one.pixel_array[..., ::-1].tobytes()


def pack(one):
    one.compress(RLELossless, generate_instance_uid=False)


def unpack_implicitly(one):
    one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def scale_phase(one):
    one.RescaleSlope *= 1.5


def scale_frames(one):
    for frame in one.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleSlope *= 1.5


def scale_privately(one):
    one.private_block(0x2005, 'Philips MR Imaging DD 001', create=True).add_new(0x0E, 'FL', 0.3)


def turn(one):
    one.ImageOrientationPatient = [-float(value) for value in one.ImageOrientationPatient]


def widen(one):
    one.PixelSpacing = [2, 2]


def sign(one):
    one.PixelRepresentation = 1


def drop_offsets(one):
    pack(one)
    one.PixelData = encapsulate([*generate_frames(one.PixelData, number_of_frames=1)], has_bot=False)


def annotate(one):
    one.PatientComments, one.NumberOfFrames = 'an archive wrote this', 1
    one.PixelData += bytes(8)


def swap_bytes(one):
    one.PixelData = one.pixel_array.astype('>u2').tobytes()
    one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


def drop_bits(one):
    del one.BitsAllocated
    one.PixelData += bytes(8)


def copy_of(path, *changes, prefix='0-'):
    """Write a changed file beside one, under a name that sorts before it."""
    one = pydicom.dcmread(path)
    for change in changes:
        change(one)
    copy = path.with_name(prefix + path.name)
    syntax = one.file_meta.TransferSyntaxUID
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    is_plain = not syntax.is_compressed
    pydicom.dcmwrite(copy, one, **({'implicit_vr': implicit, 'little_endian': little} if is_plain else {}))
    return copy


@pytest.mark.parametrize(
    ('changes', 'why'),
    [
        ([mirror], 'other pixels'),
        ([mirror, unpack_implicitly], 'other pixels'),
        ([mirror, pack], 'other pixels'),
        ([scale_phase], 'another RescaleSlope'),
        ([scale_privately], 'another PhilipsScaleSlope'),
        ([widen], 'another PixelSpacing'),
        ([turn], 'another ImageOrientationPatient'),
        ([sign], 'another PixelRepresentation'),
    ],
)
@pytest.mark.parametrize('prefix', ['0-', 'z-'])
def test_what_contradicts_a_file_is_not_written_whichever_sorts_first(
    changes, why, prefix, tmp_path, bring_in, capsys
):
    path = write_classic(tmp_path / 'dicom', SCAN)[5]
    other = copy_of(path, *changes, prefix=prefix)
    first, second = sorted([path, other])
    assert bring_in() == 1
    said = capsys.readouterr().out
    sentence = f'{second}: it has the identity of {first} but {why}, and nothing tells which is right; keep '
    assert said.count(sentence) == 1
    assert 'series 5 (phase) is unclear: files of one identity differ (1 of 4); keep only' in said
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]


def test_a_name_in_the_table_does_not_settle_which_file_is_right(tmp_path, bring_in, capsys):
    path = write_classic(tmp_path / 'dicom', SCAN)[5]
    other = copy_of(path, mirror)
    bring_in(dry_run=True)
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.name = 'T2starw'
    write_rows(tmp_path / 'bids_import.tsv', rows)
    assert bring_in() == 1
    said = capsys.readouterr().out
    assert 'sub-01_T2starw is not imported: series 5 (phase): files of one identity differ (1 of 4)' in said
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]
    other.unlink()
    assert bring_in() == 0
    assert len([*(tmp_path / 'bids').rglob('*.nii.gz')]) == 2


@pytest.mark.parametrize(
    'changes',
    [[unpack_implicitly], [pack], [drop_offsets], [annotate], [swap_bytes], [drop_bits]],
    ids=lambda changes: changes[0].__name__,
)
def test_copies_that_are_stored_otherwise_count_once(changes, tmp_path, bring_in, capsys):
    for path in write_classic(tmp_path / 'dicom', SCAN)[3:6]:
        copy_of(path, *changes, prefix='z-')
    assert bring_in() == 0
    assert 'identity' not in capsys.readouterr().out
    assert len([*(tmp_path / 'bids').rglob('*.nii.gz')]) == 2


def test_packed_copies_with_and_without_offsets_and_files_without_a_syntax(tmp_path):
    path = write_classic(tmp_path, SCAN)[5]
    copy_of(path, pack, prefix='y-')
    copy_of(path, drop_offsets, prefix='z-')
    bare = copy_of(path, prefix='x-')
    one = pydicom.dcmread(bare)
    del one.file_meta.TransferSyntaxUID
    pydicom.dcmwrite(bare, one, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert 'TransferSyntaxUID' not in pydicom.dcmread(bare).file_meta
    path.unlink()
    found = read_folder(tmp_path)
    assert (found.problems, found.n_files) == ((), 10)


def test_what_cannot_be_decoded_is_said_to_be_not_compared(tmp_path, bring_in, capsys):
    def encode(one):
        one.PixelData = encapsulate([b'\xff\x4f\xff\x51' + bytes(60)])
        one['PixelData'].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = JPEG2000Lossless

    path = write_classic(tmp_path / 'dicom', SCAN)[5]
    copy = copy_of(path, encode)
    assert bring_in() == 1
    said = capsys.readouterr().out
    assert f'{path}: it has the identity of {copy} but was not compared with it (' in said
    assert 'series 5 (phase) is unclear: files of one identity differ' in said
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]


def test_a_file_that_cannot_be_read_again_is_not_called_another_image(tmp_path, monkeypatch):
    path = write_classic(tmp_path, SCAN)[5]
    copy = copy_of(path)

    def fail(*_, **__):
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr('filecmp.cmp', fail)
    (problem,) = read_folder(tmp_path).problems
    assert f'the identity of {copy} but was not compared with it (Input/output error), and' in problem


def test_repetitions_that_nothing_tells_apart_are_unclear(tmp_path, bring_in, capsys):
    for name, changes in (('1', []), ('2', [mirror])):
        for path in write_classic(tmp_path / 'dicom' / name, replace(SCAN, has_times=False)):
            one = pydicom.dcmread(path)
            for change in changes:
                change(one)
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = '1.2.3'
            del one.InstanceNumber
            one.save_as(path)
    assert bring_in() == 1
    said = capsys.readouterr().out
    first, second = (tmp_path / 'dicom' / name / '0005_00001.dcm' for name in '12')
    assert f'{second}: it has the identity of {first} but other pixels, as 3 more files of series 5' in said
    assert said.count('have those of others: repetitions that the headers do not tell apart; keep one') == 2
    assert 'is unclear: it holds repetitions that the headers do not tell apart; keep one of them' in said
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]


@pytest.mark.parametrize(
    ('change', 'why'), [(mirror, 'other pixels'), (scale_frames, 'another RescaleSlope')]
)
def test_enhanced_files_that_contradict_each_other(change, why, tmp_path, bring_in, capsys):
    (path,) = write_enhanced(tmp_path / 'dicom', Scan('Philips', 7, echo_times=(4, 9)))
    copy = copy_of(path, change)
    assert bring_in() == 1
    said = capsys.readouterr().out
    assert said.count(f'{path}: it has the identity of {copy} but {why}, and nothing') == 1
    assert 'series 7 (magnitude) is unclear: files of one identity differ (1 of 1)' in said
    assert 'series 7 (phase) is unclear: files of one identity differ (1 of 1)' in said
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]


def test_enhanced_files_of_one_uid_at_two_times_are_two_images(tmp_path, bring_in, capsys):
    scan = Scan('Philips', 7, echo_times=(4, 9))
    (path,) = write_enhanced(tmp_path / 'dicom', scan)
    one = pydicom.dcmread(path)
    (path,) = write_enhanced(tmp_path / 'dicom', replace(scan, number=8, time=37000.0))
    other = pydicom.dcmread(path)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    other.save_as(path)
    copy_of(path)  # of itself
    assert bring_in() == 0
    said = capsys.readouterr().out
    assert '1 files of series 7 (magnitude) and 3 more series have SOP Instance UIDs that other' in said
    names = [image.name for image in (tmp_path / 'bids').rglob('*.nii.gz')]
    assert len(names) == 8
    assert np.sum(['run-2' in name for name in names]) == 4
