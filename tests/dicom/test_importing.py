import contextlib
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest

from bids_qsm.app.cli import main
from bids_qsm.dicom.convert import find_dcm2niix
from bids_qsm.dicom.importing import run_import
from bids_qsm.dicom.table import read_rows, write_rows
from bids_qsm.errors import UserError
from tests.dicom.scanners import IDENTIFYING, SHAPE, Scan, write_classic, write_enhanced

SCANS = {
    'siemens': (write_classic, Scan('Siemens', 5, patient='A-siemens', name='Aa^Erika')),
    'xa': (
        write_enhanced,
        Scan('Siemens', 6, patient='B-xa', name='Bb^Erika', degrees=-31, echo_times=(5, 12)),
    ),
    'ge': (
        write_classic,
        Scan('GE', 7, patient='C-ge', name='Cc^Erika', echo_times=(5, 12), parts=('mag', 'real', 'imag')),
    ),
    'philips': (
        write_classic,
        Scan(
            'Philips',
            8,
            patient='D-philips',
            name='Dd^Erika',
            echo_times=(5, 12),
            degrees=0,
            plane='sagittal',
        ),
    ),
    'enhanced': (write_enhanced, Scan('Philips', 9, patient='E-enhanced', name='Ee^Erika')),
    'uih': (
        write_classic,
        Scan('UIH', 10, patient='F-uih', name='Ff^Erika', echo_times=(20,), plane='sagittal'),
    ),
    'canon': (
        write_classic,
        Scan('Canon', 11, patient='G-canon', name='Gg^Erika', echo_times=(6, 14), plane='coronal'),
    ),
}
SUBJECTS = {name: f'{n:02d}' for n, name in enumerate(SCANS, 1)}
SIZES = {'mag': 1000.0, 'real': 1000.0, 'imag': 1000.0}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """DICOM files of all vendors in one folder, and the dataset that they become."""
    folder = tmp_path_factory.mktemp('import')
    for name, (write, scan) in SCANS.items():
        write(folder / 'dicom' / name, scan)
    (folder / 'dicom' / 'readme.txt').write_text('exported')
    with (folder / 'said.txt').open('w') as file, contextlib.redirect_stdout(file):
        assert main(['import', str(folder / 'dicom'), str(folder / 'bids')]) == 0
    return folder


def images_of(folder, subject):
    return sorted((folder / 'bids' / f'sub-{subject}').rglob('*.nii.gz'))


def places(scan, image):
    """Indices of the scan (column, row, slice) at each voxel of an image."""
    to_scan = np.linalg.inv(scan.affine) @ np.diag([-1.0, -1, 1, 1]) @ image.affine
    index = nib.affines.apply_affine(to_scan, np.stack(np.indices(image.shape), -1))
    assert np.abs(index - index.round()).max() < 0.01
    return tuple(np.moveaxis(index.round().astype(int), -1, 0))


@pytest.mark.parametrize('name', SCANS)
def test_each_voxel_is_where_the_scanner_saw_it_in_the_right_part_and_echo(name, tree):
    scan, found = SCANS[name][1], set()
    turn = {'Philips': 2 * np.pi, 'Canon': 2000 * np.pi, 'GE': 2000 * np.pi}.get(scan.vendor, 8192)
    for path in images_of(tree, SUBJECTS[name]):
        image, sidecar = nib.load(path), json.loads(path.with_name(f'{path.name[:-7]}.json').read_text())
        labels = dict(word.split('-') for word in path.name.split('_')[:-1])
        time = scan.echo_times[int(labels.get('echo', 1)) - 1]
        assert sidecar['EchoTime'] == pytest.approx(time / 1000)
        truth = scan.truth(labels['part'], time)[places(scan, image)]
        values = image.get_fdata()
        if labels['part'] == 'phase':
            values = values * 2 * np.pi / turn
            assert np.abs(np.angle(np.exp(1j * (values - truth)))).max() < 0.003
            assert sidecar['Units'] == ('rad' if scan.vendor == 'Philips' else 'arbitrary')
        else:
            assert np.corrcoef(values.ravel(), truth.ravel())[0, 1] > 0.9999
        found.add((labels['part'], time))
        suffix = 'T2starw' if len(scan.echo_times) == 1 else 'MEGRE'
        assert path.name.endswith(f'_{suffix}.nii.gz')
    assert found == {(part, time) for part in scan.parts for time in scan.echo_times}


def test_the_app_takes_every_series(tree, tmp_path, monkeypatch):
    from bids_qsm.app.options import Options
    from bids_qsm.layout import find_series

    monkeypatch.setattr('bids_qsm.layout.ancillary.why_no_head', lambda *_: None)
    options = Options(
        bids_dir=tree / 'bids', output_dir=tmp_path / 'out', level='participant', skip_bids_validation=True
    )
    plan = find_series(options)
    assert not plan.rejected
    assert [one.subject for one in plan.series] == list(SUBJECTS.values())
    assert [bool(one.real) for one in plan.series] == [name == 'ge' for name in SCANS]
    assert plan.series[0].echo_times == (0.005, 0.012, 0.019)


def identifying(folder):
    """Values of DICOM files that tell who was scanned, when, where and by whom; UIDs and private texts."""
    found = set()
    for path in folder.rglob('*.dcm'):
        for element in pydicom.dcmread(path, stop_before_pixels=True).iterall():
            is_text = element.tag.is_private and not element.tag.is_private_creator and element.VR == 'LO'
            if element.VR in ('PN', 'UI', 'DA', 'TM', 'DT') or is_text or element.keyword in IDENTIFYING:
                values = [element.value] if isinstance(element.value, str) else element.value or ()
                found |= set(map(str, values if element.VM > 1 else [element.value]))
    words = {word for text in found for word in re.split(r'[\^, ]', text) if not word.islower()}
    times = {f'{text[:2]}:{text[2:4]}:{text[4:6]}' for text in found if re.fullmatch(r'\d{6}(\.\d+)?', text)}
    days = {f'{text[:4]}-{text[4:6]}-{text[6:8]}' for text in found if re.match(r'20\d{6}', text)}
    classes = '1.2.840.10008.5.1.4.1.1'
    return {text for text in found | words | times | days if len(text) > 5 and not text.startswith(classes)}


def test_nothing_personal_is_in_the_dataset(tree):
    words = identifying(tree / 'dicom')
    assert {'Mustermann', '12 Elm Street, Smallville', 'Privatetext', '2024-03-01', '19640812'} < words
    assert len(words) > 150
    words |= {scan.patient for _, scan in SCANS.values()} | {'Erika'}
    text = re.compile(b'|'.join(sorted(re.escape(word.encode()) for word in words)))
    files = [path for path in (tree / 'bids').rglob('*') if path.is_file()]
    assert len(files) > 60
    for path in (*files, tree / 'said.txt'):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
        found = text.search(raw)
        assert not found, (path, found)
        assert not text.search(str(path.relative_to(tree)).encode())
        if path.suffix == '.gz':
            header = nib.Nifti1Header(raw[:348])
            assert not any(header[key].item() for key in ('descrip', 'aux_file', 'intent_name', 'db_name'))
            assert header['vox_offset'] == 352  # without extensions
    # the table says who is who by the IDs, studies and days that it needs
    table = (tree / 'bids_import.tsv').read_text()
    told = {word for word in words | {'Erika'} if word in table}
    uids = {word for word in told if word.startswith(('1.2.', '2.25.'))}
    assert told - uids == {scan.patient for _, scan in SCANS.values()} | {'20240301'}
    assert len(uids) == 2 * len(SCANS)


def test_the_dataset_is_described(tree):
    bids = tree / 'bids'
    description = json.loads((bids / 'dataset_description.json').read_text())
    assert description['DatasetType'] == 'raw'
    assert [maker['Name'] for maker in description['GeneratedBy']] == ['bids_qsm', 'dcm2niix']
    rows = (bids / 'participants.tsv').read_text().split()
    assert rows == ['participant_id', *(f'sub-{label}' for label in SUBJECTS.values())]
    assert 'deface' in (bids / 'README').read_text()
    assert (bids / '.bidsignore').exists()


def test_a_second_import_changes_nothing(tree, capsys):
    before = {path: path.stat().st_mtime_ns for path in tree.rglob('*') if path.is_file()}
    assert run_import(tree / 'dicom', tree / 'bids') == 0
    assert {path: path.stat().st_mtime_ns for path in tree.rglob('*') if path.is_file()} == before
    assert '0 files written' in capsys.readouterr().out


def test_nothing_is_overwritten_and_names_come_from_the_table(tmp_path, bring_in, capsys):
    write_classic(tmp_path / 'dicom', Scan('Siemens', 5, echo_times=(5,)))
    assert bring_in(subject='K1', session='pre') == 0
    folder = tmp_path / 'bids' / 'sub-K1' / 'ses-pre' / 'anat'
    (image,) = folder.glob('*part-mag*.nii.gz')
    assert image.name == 'sub-K1_ses-pre_part-mag_T2starw.nii.gz'
    image.write_bytes(gzip.compress(b'mine'))
    (tmp_path / 'bids' / 'participants.tsv').write_text('age\tparticipant_id\n40\tsub-x\n')
    assert bring_in() == 1
    assert 'is there with another content, and nothing is overwritten' in capsys.readouterr().out
    assert gzip.decompress(image.read_bytes()) == b'mine'
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.name = 'acq-second_T2starw'
    write_rows(tmp_path / 'bids_import.tsv', rows)
    assert bring_in() == 0
    assert len([*folder.glob('*acq-second_part-*.nii.gz')]) == 2
    people = (tmp_path / 'bids' / 'participants.tsv').read_text()
    assert people == 'age\tparticipant_id\n40\tsub-x\nn/a\tsub-K1\n'


def test_a_person_cannot_name_a_wrong_pair(tmp_path, bring_in, capsys):
    magnitude = Scan('Siemens', 5, parts=('mag',), echo_times=(5, 9))
    write_classic(tmp_path / 'dicom', magnitude)
    write_classic(tmp_path / 'dicom', replace(magnitude, number=6, parts=('phase',), degrees=3.0))
    assert bring_in() == 1
    assert 'series 6 (phase) is unclear: the nearest is series 5 (magnitude), but they differ in place' in (
        capsys.readouterr().out
    )
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.name = 'MEGRE'
    write_rows(tmp_path / 'bids_import.tsv', rows)
    assert bring_in() == 1
    assert (
        'sub-01_MEGRE is not imported: series 5 (magnitude) and series 6 (phase) do not belong together'
        in (capsys.readouterr().out)
    )
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]


def rename(tmp_path, **names):
    """Write names by the number of the series (``_5``) into the table."""
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.name = names.get(f'_{row.others["series_number"]}', row.name)
    write_rows(tmp_path / 'bids_import.tsv', rows)


def test_echoes_of_one_name_lie_in_one_place(tmp_path, bring_in, capsys):
    first = Scan('Siemens', 5, echo_times=(5,))
    write_classic(tmp_path / 'dicom', first)
    write_classic(tmp_path / 'dicom', replace(first, number=6, echo_times=(9,), degrees=3, time=37000))
    bring_in(dry_run=True)
    rename(tmp_path, _5='MEGRE', _6='MEGRE')
    assert bring_in() == 1
    assert 'series 5 (magnitude) and series 6 (magnitude) do not belong together: they differ in place' in (
        capsys.readouterr().out
    )


def test_a_magnitude_is_not_written_while_its_phase_is_unclear(tmp_path, bring_in, capsys):
    magnitude = Scan('Siemens', 5, parts=('mag',), echo_times=(5,))
    for number, part in ((5, 'mag'), (6, 'phase'), (7, 'mag')):
        write_classic(tmp_path / 'dicom', replace(magnitude, number=number, parts=(part,)))
    bring_in(dry_run=True)
    rename(tmp_path, _5='T2starw')
    assert bring_in() == 1
    assert 'series 6 (phase), which may belong to series 5 (magnitude), is unclear' in capsys.readouterr().out
    assert not [*(tmp_path / 'bids').rglob('*.nii.gz')]


def test_files_without_a_session_are_not_there_twice(tmp_path, bring_in):
    write_classic(tmp_path / 'dicom', Scan('Siemens', 5, echo_times=(5,)))
    assert bring_in() == 0
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.session = '1'
    write_rows(tmp_path / 'bids_import.tsv', rows)
    with pytest.raises(UserError, match='holds files without ses-, which would be there twice'):
        bring_in()


def test_two_imports_do_not_write_one_table(tmp_path, bring_in):
    for number, part in ((5, 'mag'), (6, 'phase'), (7, 'mag')):
        write_classic(tmp_path / 'dicom', Scan('Siemens', number, parts=(part,), echo_times=(5,)))
    table = tmp_path / 'bids_import.tsv'

    def ask(_):
        with pytest.raises(UserError, match='another import writes'):
            bring_in()
        table.write_text('edited')
        return 'skip'

    with pytest.raises(UserError, match='was changed while the import ran'):
        bring_in(ask=ask)
    assert table.read_text() == 'edited'
    table.unlink()
    assert bring_in() == 1  # the lock is gone


def test_a_truncated_file_is_named_and_its_series_left_out(tmp_path, bring_in, capsys):
    files = write_classic(tmp_path / 'dicom', Scan('Siemens', 5, echo_times=(5,)))
    files[1].write_bytes(files[1].read_bytes()[:-10])
    assert bring_in() == 1
    said = capsys.readouterr().out
    assert f'{files[1]}: it is truncated' in said
    assert 'series 5 (magnitude) is unclear: slices are missing' in said
    assert 'Traceback' not in said


def test_compressed_frames_of_a_mixed_file_are_taken_apart(tmp_path, bring_in, capsys):
    scan = Scan('Siemens', 5, echo_times=(5, 9))
    (path,) = write_enhanced(tmp_path / 'dicom', scan)
    one = pydicom.dcmread(path)
    one.compress(pydicom.uid.RLELossless)
    one.save_as(path)
    assert bring_in() == 0
    (image,) = (tmp_path / 'bids').rglob('*echo-2_part-mag*.nii.gz')
    image = nib.load(image)
    truth = scan.truth('mag', 9)[places(scan, image)]
    np.testing.assert_allclose(image.get_fdata(), truth, atol=0.51)
    path.write_bytes(path.read_bytes()[:-2000])
    assert run_import(tmp_path / 'dicom', tmp_path / 'others') == 1
    assert 'the frames of series 5 (magnitude) cannot be taken apart' in capsys.readouterr().out


def test_a_bold_run_is_a_4d_image_with_its_task(tmp_path, bring_in):
    for n in range(3):
        scan = Scan(
            'GE',
            5,
            'fmri_task-nback',
            parts=('mag',),
            echo_times=(30,),
            tags={'ScanningSequence': ['EP', 'GR']},
        )
        for path in write_classic(tmp_path / 'dicom' / str(n), scan):
            one = pydicom.dcmread(path)
            one.SOPInstanceUID = scan.uid('frame', n, one.InstanceNumber)
            one.InstanceNumber += n * SHAPE[2]
            one.AcquisitionNumber = one.TemporalPositionIdentifier = n + 1
            one.NumberOfTemporalPositions = 3
            one.AcquisitionTime = f'10000{n}.000000'
            one.save_as(path)
    assert bring_in() == 0
    (image,) = (tmp_path / 'bids').rglob('*.nii.gz')
    assert image.name == 'sub-01_task-nback_bold.nii.gz'
    assert nib.load(image).shape == (*SHAPE, 3)
    assert json.loads(image.with_name('sub-01_task-nback_bold.json').read_text())['TaskName'] == 'nback'


def test_wrong_use_is_one_sentence(tmp_path, capsys, monkeypatch):
    write_classic(tmp_path / 'dicom', Scan('Siemens', 5, echo_times=(5,), parts=('mag',)))
    dicom, bids, stranger = (str(tmp_path / name) for name in ('dicom', 'bids', 'stranger'))
    (tmp_path / 'stranger' / 'sub-01').mkdir(parents=True)
    for words, message in (
        ([dicom, bids, '--table', f'{bids}/table.tsv'], 'lies in the dataset, but it names patients'),
        ([dicom, f'{dicom}/bids'], 'lies in the folder of the DICOM files'),
        ([f'{dicom}0', bids], 'is not a folder'),
        ([dicom, bids, '--participant-label', 'a b'], 'is no label'),
        ([dicom, f'{dicom}/0005_00001.dcm'], 'is a file'),
        ([dicom, bids, '--table', f'{dicom}/0005_00001.dcm/t.tsv'], 'cannot be made, as'),
        ([dicom, stranger], 'has sub-01 already, but'),
    ):
        assert main(['import', *words]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count('\n') == 1
    (tmp_path / 'bids').mkdir()
    (tmp_path / 'bids' / 'participants.tsv').write_bytes(
        'participant_id\tsite\nsub-x\tZürich\n'.encode('latin-1')
    )
    assert main(['import', dicom, bids]) == 2
    assert 'participants.tsv cannot be read' in capsys.readouterr().err
    assert not [*(tmp_path / 'bids').glob('sub-*')]
    monkeypatch.setitem(__import__('sys').modules, 'dcm2niix', None)
    monkeypatch.setenv('PATH', '')
    with pytest.raises(Exception, match='needs dcm2niix'):
        find_dcm2niix()


def test_a_phase_that_no_header_marks_is_asked_for_and_stated_in_the_table(tmp_path, bring_in, capsys):
    magnitude = Scan('UIH', 5, parts=('mag',), echo_times=(5, 9), image_type='ORIGINAL\\PRIMARY\\NONE')
    phase = replace(magnitude, number=6, parts=('phase',), description='QSM_gre_Pha')
    write_classic(tmp_path / 'dicom', magnitude)
    write_classic(tmp_path / 'dicom', phase)
    assert bring_in() == 1
    assert 'does not tell for sure whether it is magnitude or phase' in capsys.readouterr().out
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.name = 'part-phase_MEGRE' if row.part == 'unknown' else 'MEGRE'
    write_rows(tmp_path / 'bids_import.tsv', rows)
    assert bring_in() == 0
    (image,) = (tmp_path / 'bids').rglob('*echo-2_part-phase*.nii.gz')
    image = nib.load(image)
    truth = phase.truth('phase', 9)[places(phase, image)]
    assert np.abs(np.angle(np.exp(1j * (image.get_fdata() * np.pi / 4096 - truth)))).max() < 0.003


def test_echo_times_that_headers_round_are_one_echo(tmp_path, bring_in):
    magnitude = Scan('Siemens', 5, parts=('mag',), echo_times=(5, 9))
    write_classic(tmp_path / 'dicom', magnitude)
    write_classic(tmp_path / 'dicom', replace(magnitude, number=6, parts=('phase',), echo_times=(5.001, 9)))
    assert bring_in() == 0
    sidecars = sorted((tmp_path / 'bids').rglob('*_MEGRE.json'))
    assert [json.loads(path.read_text())['EchoTime'] for path in sidecars] == [0.005, 0.005, 0.009, 0.009]


def test_ct_and_diffusion_are_imported_where_the_table_names_them(tmp_path, bring_in, capsys):
    ct = Scan('Siemens', 5, 'head', parts=('mag',), echo_times=(0,), image_type='ORIGINAL\\PRIMARY\\AXIAL')
    for n, path in enumerate(write_classic(tmp_path / 'dicom' / 'ct', ct)):
        one = pydicom.dcmread(path)
        one.Modality, one.InstanceNumber = 'CT', (1, 3, 2, 4)[n]
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.2'
        one.save_as(path)
    for n, (b, x, y) in enumerate(((0, 0, 0), (1000, 1, 0), (1000, 0, 1))):
        scan = Scan('Philips', 7, 'DTI', parts=('mag',), echo_times=(90,), tags={'ScanningSequence': 'EP'})
        for k, path in enumerate(write_classic(tmp_path / 'dicom' / f'dwi{n}', scan)):
            one = pydicom.dcmread(path)
            one.InstanceNumber, one.AcquisitionNumber = 4 * n + (1, 3, 2, 4)[k], n + 1
            one.SOPInstanceUID = scan.uid('frame', n, k)
            one.DiffusionBValue, one.DiffusionGradientOrientation = float(b), [float(x), float(y), 0.0]
            one.DiffusionDirectionality = 'DIRECTIONAL' if b else 'NONE'
            one.private_block(0x2001, 'Philips Imaging DD 001', create=True).add_new(3, 'FL', float(b))
            one.save_as(path)
    assert bring_in() == 0
    said = capsys.readouterr().out
    assert 'write CT as its name' in said
    assert 'write dwi as its name' in said
    rows = read_rows(tmp_path / 'bids_import.tsv')
    for row in rows:
        row.name = {'5': 'CT', '7': 'dwi'}[row.others['series_number']]
    write_rows(tmp_path / 'bids_import.tsv', rows)
    assert bring_in() == 0
    bids = tmp_path / 'bids'
    assert nib.load(bids / 'sub-01' / 'anat' / 'sub-01_CT.nii.gz').shape == SHAPE
    assert nib.load(bids / 'sub-01' / 'dwi' / 'sub-01_dwi.nii.gz').shape == (*SHAPE, 3)
    assert (bids / 'sub-01' / 'dwi' / 'sub-01_dwi.bval').read_text().split() == ['0', '1000', '1000']
    assert (bids / '.bidsignore').read_text() == '*_CT.*\n'


def test_odd_files_of_real_scanners_are_read(tmp_path, capsys):
    """Those that pydicom tests itself on: damaged, compressed, of all kinds; no phase among them."""
    folder = Path(pydicom.data.__file__).parent / 'test_files'
    run_import(folder, tmp_path / 'bids', dry_run=True)
    said = capsys.readouterr().out
    assert 'MR_truncated.dcm: it is truncated' in said
    assert 'badVR.dcm: its header is damaged' in said
    assert 'a localizer' in said
    assert 'MEGRE ' not in said
