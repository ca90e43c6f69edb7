import shutil
import subprocess
from dataclasses import replace

import nibabel as nib
import numpy as np
import pydicom
import pytest

from bids_qsm.app.cli import main
from bids_qsm.dicom.convert import find_dcm2niix
from bids_qsm.dicom.importing import run_import
from bids_qsm.dicom.table import read_rows, write_rows
from bids_qsm.recon.grid import Grid
from bids_qsm.recon.resolution import coarsen
from tests.dicom.scanners import Scan, write_classic, write_enhanced

SCANS = {
    'classic': (write_classic, Scan('Siemens', 5, degrees=14, echo_times=(5, 9))),
    'enhanced': (write_enhanced, Scan('Philips', 6, plane='sagittal', degrees=-33, echo_times=(5, 9))),
}


def make_maps(folder, subject='01', seed=0, name=''):
    """Maps on the grid of the first magnitude of a participant."""
    start = f'sub-{subject}{name}'
    (magnitude,) = (folder / 'bids').rglob(f'{start}_echo-1_part-mag_MEGRE.nii.gz')
    image = nib.load(magnitude)
    values = np.random.default_rng(seed).normal(0, 0.1, image.shape).astype('f4')
    out = folder / 'out' / f'sub-{subject}' / 'anat'
    out.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, image.affine), out / f'{start}_Chimap.nii.gz')
    nib.save(nib.Nifti1Image(np.abs(values) * 900, image.affine), out / f'{start}_swi.nii.gz')
    nib.save(nib.Nifti1Image(values, image.affine), out / f'{start}_space-T1w_Chimap.nii.gz')
    return values, image.affine


@pytest.fixture(scope='module', params=SCANS)
def exported(request, tmp_path_factory):
    """A folder with DICOM files, maps and what they became; the true susceptibility, its affine, the scan."""
    folder = tmp_path_factory.mktemp(request.param)
    write, scan = SCANS[request.param]
    write(folder / 'dicom', scan)
    run_import(folder / 'dicom', folder / 'bids')
    values, affine = make_maps(folder)
    assert main(['export', *(str(folder / name) for name in ('out', 'dicom', 'dest'))]) == 0
    return folder, values, affine, scan


def back(folder):
    """A series as dcm2niix reads it."""
    target = folder.parent / f'nifti-{folder.name}'
    target.mkdir()
    words = ['-g', 'i', '-x', 'i', '-f', 'x', '-o', target, folder]
    subprocess.run([find_dcm2niix(), *words], check=True, capture_output=True)
    (path,) = target.glob('*.nii')
    return nib.load(path)


def test_series_come_back_through_dcm2niix(exported):
    folder, values, affine, _ = exported
    image = back(folder / 'dest' / 'sub-01_Chimap_series')
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    np.testing.assert_allclose(image.get_fdata() / 1000, values, atol=0.51e-4)  # steps of 0.1 ppb
    image = back(folder / 'dest' / 'sub-01_swi_series')
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    factor = 32767 / (900 * np.abs(values).max())
    np.testing.assert_allclose(image.get_fdata() / factor, np.abs(values) * 900, atol=0.51 / factor)


def test_the_parametric_map_has_ppm_at_the_same_places(exported):
    folder, values, affine, scan = exported
    one = pydicom.dcmread(folder / 'dest' / 'sub-01_Chimap_map.dcm')
    pixels = np.frombuffer(one.FloatPixelData, '<f4').reshape(one.NumberOfFrames, one.Rows, one.Columns)
    shared, turn = one.SharedFunctionalGroupsSequence[0], np.diag([-1.0, -1, 1, 1])
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    spacing = [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing]
    to_voxel = np.linalg.inv(turn @ affine)
    for frame, pixel in zip(one.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        start = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        for i, j in ((0, 0), (one.Columns - 1, 2), (3, one.Rows - 1)):
            place = start + i * spacing[1] * row + j * spacing[0] * column
            voxel = nib.affines.apply_affine(to_voxel, place)
            np.testing.assert_allclose(voxel, voxel.round(), atol=1e-3)
            assert pixel[j, i] == values[tuple(voxel.round().astype(int))]
    mapping = shared.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == '[ppm]'
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator) == ('126396', 'DCM')
    assert one.ContentQualification == 'RESEARCH'
    assert one.StudyInstanceUID == _source(folder).StudyInstanceUID
    assert scan.patient == one.PatientID


def _source(folder):
    return pydicom.dcmread(next((folder / 'dicom').rglob('*.dcm')))


def test_maps_join_the_study_and_say_what_they_are(exported):
    folder, _, _, scan = exported
    files = sorted((folder / 'dest' / 'sub-01_Chimap_series').iterdir())
    slices, source = [pydicom.dcmread(path) for path in files], _source(folder)
    for one in slices:
        for key in (
            'PatientName',
            'PatientID',
            'PatientBirthDate',
            'StudyInstanceUID',
            'FrameOfReferenceUID',
        ):
            assert one[key].value == source[key].value
        assert list(one.ImageType) == ['DERIVED', 'SECONDARY', 'QSM']
        assert 'not for diagnosis' in one.ImageComments
        assert 'RESEARCH' in one.SeriesDescription
        assert one.RescaleType == 'ppb'
        assert one.WindowWidth >= 1
        assert one.SeriesInstanceUID != source.SeriesInstanceUID
        assert one.SoftwareVersions
        assert len(one.SourceImageSequence) == len(scan.parts) // 2
    assert len({one.SOPInstanceUID for one in slices}) == len(slices)
    assert len({one.SeriesInstanceUID for one in slices}) == 1


def test_the_same_map_gives_the_same_files_and_none_is_overwritten(exported, capsys):
    folder, *_ = exported
    words = [str(folder / name) for name in ('out', 'dicom')]
    assert main(['export', *words, str(folder / 'dest')]) == 2
    assert 'is there already' in capsys.readouterr().err
    assert main(['export', *words, str(folder / 'again')]) == 0
    for path in (folder / 'dest').rglob('*.dcm'):
        assert path.read_bytes() == (folder / 'again' / path.relative_to(folder / 'dest')).read_bytes()


def test_exported_series_are_not_imported_again(exported, capsys):
    folder, *_ = exported
    assert run_import(folder / 'dest', folder / 'bids2', dry_run=True) == 0
    said = capsys.readouterr().out
    assert said.count('derived (ImageType SECONDARY)') == 2
    assert 'series 5002 (magnitude): a parametric map' in said or 'series 6002 (magnitude): a para' in said


@pytest.mark.parametrize('missing', [2, 3])  # within, at the end
def test_a_map_is_not_laid_over_a_part_of_its_series(missing, tmp_path, capsys):
    scan = Scan('Siemens', 5, echo_times=(5, 9))
    files = write_classic(tmp_path / 'dicom', scan)
    run_import(tmp_path / 'dicom', tmp_path / 'bids')
    make_maps(tmp_path)
    for path in files:
        if pydicom.dcmread(path).SOPInstanceUID in {scan.uid('mag', n, missing) for n in (1, 2)}:
            path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    words = ['export', *(str(tmp_path / name) for name in ('out', 'dicom', 'dest'))]
    for more in ([], ['--table', str(tmp_path / 'bids_import.tsv')]):
        assert main([*words, *more]) == 2
        said = capsys.readouterr()
        assert said.out.count('it is truncated') == 2
        assert 'does not lie where' in said.err or 'no whole series' in said.err
    assert not (tmp_path / 'dest').exists()


def test_patients_are_matched_by_the_table_alone(tmp_path, capsys):
    for patient, number in (('A', 5), ('B', 6)):
        scan = Scan(
            'Siemens',
            number,
            patient=patient,
            name=f'{patient}^X',
            echo_times=(5, 9),
            tags={'SliceThickness': 1.6},
        )
        write_classic(tmp_path / 'dicom' / patient, scan)
    write_classic(tmp_path / 'dicom' / 'B2', replace(scan, number=7, time=37000))
    run_import(tmp_path / 'dicom', tmp_path / 'bids')
    make_maps(tmp_path, '01')
    make_maps(tmp_path, '02', 1, '_run-2')
    words = ['export', *(str(tmp_path / name) for name in ('out', 'dicom', 'dest'))]
    assert main(words) == 2
    assert 'give --table' in capsys.readouterr().err
    assert main([*words, '--participant-label', '02']) == 2
    assert 'give --table' in capsys.readouterr().err
    assert not (tmp_path / 'dest').exists()
    # a T1w on the grid of the gradient echoes is not their source
    table = tmp_path / 'bids_import.tsv'
    rows = read_rows(table)
    t1w = replace(scan, number=3, protocol='t1_mprage', parts=('mag',), echo_times=(2,))
    write_classic(tmp_path / 'dicom' / 'B3', replace(t1w, tags={'SequenceVariant': 'MP'}))
    rows.append(replace(rows[-1], series_uid=t1w.series_uid, part='mag', name='run-2_T1w'))
    write_rows(table, rows)
    assert main([*words, '--table', str(table)]) == 0
    found = {path.parent.name: pydicom.dcmread(path) for path in (tmp_path / 'dest').rglob('00001.dcm')}
    assert {name: str(one.PatientID) for name, one in found.items() if 'Chi' in name} == {
        'sub-01_Chimap_series': 'A',
        'sub-02_run-2_Chimap_series': 'B',
    }
    assert found['sub-02_run-2_Chimap_series'].SeriesNumber == 7001
    assert found['sub-01_Chimap_series'].SliceThickness == 1.6
    assert found['sub-01_Chimap_series'].SpacingBetweenSlices == pytest.approx(2)


def test_a_map_of_another_grid_or_none_is_refused(tmp_path, capsys):
    scan = Scan('Siemens', 5, echo_times=(5, 9))
    write_classic(tmp_path / 'dicom', scan)
    run_import(tmp_path / 'dicom', tmp_path / 'bids')
    words = ['export', *(str(tmp_path / name) for name in ('out', 'dicom', 'dest'))]
    (tmp_path / 'out').mkdir()
    assert main(words) == 2
    assert 'has no susceptibility maps' in capsys.readouterr().err
    make_maps(tmp_path)
    for place in ('bids_import.tsv', 'bids_import.tsv/dest'):
        assert main([*words[:3], str(tmp_path / place)]) == 2
        assert 'give another folder to write to' in capsys.readouterr().err
    for place in ('out', 'dicom/x', 'bids/sub-01'):
        assert main([*words[:3], str(tmp_path / place)]) == 2
        assert 'names the patients and is no part of it' in capsys.readouterr().err
    assert main([*words, '--participant-label', '09']) == 2
    assert 'no susceptibility map of sub-09' in capsys.readouterr().err
    shutil.rmtree(tmp_path / 'dicom')
    write_classic(tmp_path / 'dicom', replace(scan, degrees=10))
    assert main(words) == 2
    assert 'does not lie where the DICOM series do' in capsys.readouterr().err
    write_classic(tmp_path / 'dicom', scan)
    swi = replace(scan, number=8, parts=('mag',), image_type='DERIVED\\PRIMARY\\M\\SWI')
    write_classic(tmp_path / 'dicom', swi)
    assert main(words) == 0
    shutil.rmtree(tmp_path / 'dest')
    write_classic(tmp_path / 'dicom', replace(scan, number=9))
    assert main(words) == 2
    assert 'may come from series 5 (magnitude), series 9 (magnitude)' in capsys.readouterr().err


@pytest.mark.parametrize(('plane', 'degrees'), [('axial', 14), ('sagittal', -33)])
def test_a_map_of_larger_voxels_gets_a_grid_of_its_own(plane, degrees, tmp_path, capsys):
    scan = Scan('Siemens', 5, echo_times=(5, 9), plane=plane, degrees=degrees, tags={'SliceThickness': 1.6})
    write_classic(tmp_path / 'dicom', scan)
    run_import(tmp_path / 'dicom', tmp_path / 'bids')
    _, affine = make_maps(tmp_path)
    (path,) = (tmp_path / 'out').rglob('sub-01_Chimap.nii.gz')
    (tmp_path / 'out' / 'sub-01' / 'anat' / 'sub-01_swi.nii.gz').unlink()
    echoes = np.ones((*nib.load(path).shape, 1), np.float32)
    grid = Grid.from_affine(echoes.shape[:3], affine)
    coarse, _, to_old = coarsen(echoes, 0 * echoes, grid, (3.0, 2.6, 4.0))
    shape = coarse.shape[:3]
    values = np.random.default_rng(1).normal(0, 0.1, shape).astype('f4')
    nib.save(nib.Nifti1Image(values, affine @ to_old), path)
    words = ['export', *(str(tmp_path / name) for name in ('out', 'dicom', 'dest'))]
    assert main(words) == 2  # another study may have the same field of view
    assert '--table for a map of other voxels' in capsys.readouterr().err
    words += ['--table', str(tmp_path / 'bids_import.tsv')]
    assert main(words) == 0
    series = tmp_path / 'dest' / 'sub-01_Chimap_series'
    image = back(series)
    assert image.shape == shape != scan.shape
    np.testing.assert_allclose(image.affine, affine @ to_old, atol=1e-5)
    np.testing.assert_allclose(image.get_fdata() / 1000, values, atol=0.51e-4)
    slices, source = [pydicom.dcmread(one) for one in sorted(series.iterdir())], _source(tmp_path)
    assert {one.FrameOfReferenceUID for one in slices} == {source.FrameOfReferenceUID}
    assert {round(float(one.SliceThickness), 6) for one in slices} == {4.0}
    # each source image is in one slice
    named = [item.ReferencedSOPInstanceUID for one in slices for item in one.SourceImageSequence]
    assert len(named) == len(set(named)) == scan.shape[2]
    one = pydicom.dcmread(tmp_path / 'dest' / 'sub-01_Chimap_map.dcm')
    assert (one.NumberOfFrames, one.Rows, one.Columns) == shape[::-1]
    shutil.rmtree(tmp_path / 'dest')
    shift = np.eye(4)
    shift[0, 3] = 0.2
    nib.save(nib.Nifti1Image(values, affine @ to_old @ shift), path)
    assert main(words) == 2
    assert 'does not lie where the DICOM series do' in capsys.readouterr().err
