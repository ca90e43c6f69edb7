"""A head through DICOM and back: files of each scanner, `import`, participant level, `export`, other readers.

python benchmarks/dicom.py [--scans 'Siemens' 'GE, phase' ...] [--whole 'Siemens' ...] [--t1w] [--keep FOLDER]

Digital heads are written as DICOM files in the way of each vendor and imported. Images, names and sidecars
are compared with what was put in. The scans of --whole (all) go through the participant level: the first of
each head position (or all, with --t1w) beside a T1w image and with its defaults, the others for maps alone
(about half a minute each). The rest get the true map in its place. `export` writes DICOM, which dcm2niix and
pydicom read again, and which dciodvfy (dicom3tools) checks, where it is installed. Susceptibility is compared
with the truth, and with that of the first scan of the same head position. The exit status is 1 where
something differs by more than it may.
"""

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent.parent))

from bids_qsm.app.cli import main
from bids_qsm.dicom.convert import find_dcm2niix
from bids_qsm.phantom.gre import Protocol, simulate
from bids_qsm.phantom.head import make_head
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.recon.scaling import phase_to_radians
from tests.dicom.scanners import Measured, Scan, write_classic, write_enhanced

TIMES = (4.0, 9.0, 15.0)
"""Echo times (ms)."""
PLANES = {'axial': 'LPS', 'sagittal': 'PIL', 'coronal': 'LIP'}
"""Directions (RAS) to which columns, rows and slices run."""
COMPLEX = ('mag', 'real', 'imag')
TO_LPS = np.diag([-1.0, -1, 1, 1])
SAME = ('PatientID', 'PatientName', 'PatientBirthDate', 'StudyInstanceUID', 'FrameOfReferenceUID')
"""Elements that exported files have in common with their source."""
MAPS_ALONE = ('--no-registration',)
"""Options of the participant level that leave out what takes its time and hardly changes susceptibility."""
LEAST_R, LEAST_SLOPE = 0.8, 0.6
"""Of susceptibility against the truth; a wrong pair, sign or order of slices gives far less."""
MOST_APART = 4.0
"""Of a susceptibility from that of the first scan of its slab (ppb, spread).

Tried: right images of ten kinds differ by 0.0 to 2.2, with other options than the first too. A susceptibility
that differed by 1.2 got 2.5 when it was multiplied by 1.1, 4.6 by 1.2, 13 to 17 when it was shifted by a
voxel, 18 with slices swapped in pairs, 26 mirrored, and 44 with the other sign.
"""


@dataclass(frozen=True)
class Kind:
    """How a scanner writes an acquisition."""

    vendor: str
    is_enhanced: bool = False
    parts: tuple[str, ...] = ('mag', 'phase')
    plane: str = 'axial'
    slab: str = 'tilted'
    """Key of SLABS."""
    sign: int = 1
    """Of phase in a positive field: scanners differ in it, and no header tells it."""

    def write(self, folder, scan):
        (write_enhanced if self.is_enhanced else write_classic)(folder, scan)


KINDS = {
    'Siemens': Kind('Siemens'),
    'Siemens, sagittal': Kind('Siemens', plane='sagittal'),
    'Siemens, oblique': Kind('Siemens', slab='oblique'),
    'Siemens XA, enhanced': Kind('Siemens', is_enhanced=True),
    'GE, complex': Kind('GE', parts=COMPLEX, sign=-1),
    'GE, phase': Kind('GE', plane='coronal', sign=-1),
    'Philips': Kind('Philips', plane='sagittal'),
    'Philips, enhanced': Kind('Philips', is_enhanced=True, slab='oblique'),
    'UIH': Kind('UIH'),
    'Canon': Kind('Canon', plane='coronal'),
}
SLABS = {'tilted': (12.0, 0.0, 0.0), 'oblique': (-17.0, 9.0, 24.0)}
"""Turns of the field of view (degrees about x, y and z)."""


def in_plane(values, affine, plane):
    """Values in the order of columns, rows and slices, and their place (LPS)."""
    image = nib.Nifti1Image(values, affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(PLANES[plane])
    )
    image = image.as_reoriented(turn)
    return np.asanyarray(image.dataobj), TO_LPS @ image.affine


class Heads:
    """Acquisitions of one head, simulated once for each slab."""

    def __init__(self, voxel):
        self.voxel = voxel
        self.head = make_head(5, spacing=2.0)
        self.simulations = {}

    def simulation(self, slab):
        if slab not in self.simulations:
            protocol = Protocol(
                (self.voxel,) * 3, echo_times=tuple(t / 1000 for t in TIMES), rotation=SLABS[slab], snr=90
            )
            self.simulations[slab] = simulate(self.head, protocol, seed=1)
        return self.simulations[slab]

    def scan(self, name):
        """The scan of a kind and, in its study, a T1w image."""
        kind, number = KINDS[name], 1 + list(KINDS).index(name)
        simulation = self.simulation(kind.slab)
        signal = simulation.magnitude * np.exp(1j * kind.sign * simulation.phase)
        placed = [
            in_plane(signal[..., n].astype(np.complex64), simulation.affine, kind.plane) for n in range(3)
        ]
        who = {'patient': f'P{number:03d}-HOSP', 'name': f'Surname{number}^Given', 'echo_times': TIMES}
        signals = {time: values for time, (values, _) in zip(TIMES, placed, strict=True)}
        if kind.parts == COMPLEX:  # as its product leaves them
            for values in signals.values():
                values[:, :, 1::2] *= -1
        scan = Measured(
            kind.vendor, 5, parts=kind.parts, seed=number, signals=signals, place=placed[0][1], **who
        )
        t1w, affine = simulate_t1w(self.head, 2, voxel_size=(2.0,) * 3)
        t1w, affine = in_plane(t1w.astype(np.complex64), affine, 'sagittal')
        tags = {'InversionTime': 900, 'SequenceVariant': 'MP', 'EchoTime': 3.0}
        beside = replace(
            scan,
            vendor='Siemens',
            number=9,
            protocol='t1_mprage',
            time=37000.0,
            parts=('mag',),
            echo_times=(3.0,),
            signals={3.0: t1w},
            place=affine,
            tags=tags,
        )
        return scan, beside

    def true_images(self, name):
        """True susceptibility and brain of a scan."""
        simulation = self.simulation(KINDS[name].slab)
        return [
            nib.Nifti1Image(np.asarray(simulation.truth[key], np.float32), simulation.affine)
            for key in ('chi', 'mask')
        ]

    def truth(self, name):
        """True susceptibility (ppm) and magnitude of a scan, and their affine."""
        simulation = self.simulation(KINDS[name].slab)
        affine = simulation.affine
        return simulation.truth['chi'], simulation.magnitude[..., 0], affine


def run(*words):
    """Run bids_qsm; where it fails, what it said is the error."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(word) for word in words])
    if code:
        raise SystemExit(f'bids_qsm {words[0]} failed:\n{said.getvalue()[-5000:]}')


def compare_import(scan: Scan, bids: Path, subject: str) -> Counter:
    """Faults of imported images: wrong names, sidecars, places, values; nothing where all is right."""
    faults: Counter = Counter()
    folder = bids / f'sub-{subject}' / 'anat'
    several = len(scan.echo_times) > 1
    suffix = 'MEGRE' if several else 'T2starw'
    wanted = {
        f'sub-{subject}' + (f'_echo-{n}' if several else '') + f'_part-{part}_{suffix}': (part, time)
        for n, time in enumerate(scan.echo_times, 1)
        for part in scan.parts
    }
    found = {path.name.removesuffix('.nii.gz') for path in folder.glob(f'*_{suffix}.nii.gz')}
    faults['names'] = len(found ^ set(wanted))
    for stem in sorted(found & set(wanted)):
        part, time = wanted[stem]
        image = nib.load(folder / f'{stem}.nii.gz')
        sidecar = json.loads((folder / f'{stem}.json').read_text())
        told = {'EchoTime': time / 1000, 'RepetitionTime': 0.028, 'FlipAngle': 15, 'MagneticFieldStrength': 3}
        faults['sidecars'] += any(abs(sidecar.get(key, -1) - value) > 1e-6 for key, value in told.items())
        index = nib.affines.apply_affine(
            np.linalg.inv(scan.affine) @ TO_LPS @ image.affine, np.stack(np.indices(image.shape), -1)
        )
        if image.shape != tuple(scan.shape) or np.abs(index - index.round()).max() > 0.01:
            faults['places'] += 1
            continue
        truth = scan.truth(part, time)[tuple(np.moveaxis(index.round().astype(int), -1, 0))]
        values = image.get_fdata()
        if part == 'phase':
            radians, _ = phase_to_radians(values)
            away = np.abs(np.angle(np.exp(1j * (radians - truth))))
            faults['phase'] += away.max() > 0.0016 + 1e-4  # half a step of 4096 levels is .0008
        else:  # magnitudes have a scale of the scanner
            scale = (values * truth).sum() / (truth**2).sum()
            # stored in whole numbers; the fit of the scale adds a little
            faults['values'] += np.abs(values / scale - truth).max() > 0.6
    return +faults


def read_back(folder: Path):
    """A series as dcm2niix reads it."""
    with tempfile.TemporaryDirectory() as target:
        words = ['-g', 'i', '-x', 'i', '-b', 'n', '-f', 'x', '-o', target, str(folder)]
        subprocess.run([find_dcm2niix(), *words], check=True, capture_output=True)
        (path,) = Path(target).glob('*.nii')
        image = nib.load(path)
        return image.get_fdata(), image.affine


def compare_export(dest: Path, maps: Path, subject: str, source: pydicom.Dataset) -> tuple[Counter, str]:
    """Faults of exported files against the maps they were made of, and the largest difference (steps).

    A step of susceptibility is 0.1 ppb.
    """
    faults: Counter = Counter()
    worst = 0.0
    for suffix, factor in (('Chimap', 1000.0), ('swi', None)):
        series = dest / f'sub-{subject}_{suffix}_series'
        image = nib.load(maps / f'sub-{subject}' / 'anat' / f'sub-{subject}_{suffix}.nii.gz')
        true = np.asarray(image.dataobj, np.float64)
        values, affine = read_back(series)
        slices = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
        step = float(slices[0].get('RescaleSlope', 1))
        factor = factor or 32767 / np.abs(true).max()
        away = np.abs(values - factor * true).max() / step
        worst = max(worst, float(away))
        faults['values'] += away > 0.51
        faults['places'] += np.abs(affine - image.affine).max() > 1e-4
        # the same by another reader
        last = len(slices) // 2
        pixels = slices[last].pixel_array * step
        faults['pixels'] += np.abs(pixels - factor * true[:, ::-1, last].T).max() > 0.51 * step
        faults['identity'] += any(one[key].value != source[key].value for one in slices for key in SAME)
        faults['dciodvfy'] += errors_of(sorted(series.iterdir())[last])
    path = dest / f'sub-{subject}_Chimap_map.dcm'
    one = pydicom.dcmread(path)
    image = nib.load(maps / f'sub-{subject}' / 'anat' / f'sub-{subject}_Chimap.nii.gz')
    true = np.asarray(image.dataobj, np.float32)
    frames = np.frombuffer(one.FloatPixelData, '<f4').reshape(one.NumberOfFrames, one.Rows, one.Columns)
    to_voxel = np.linalg.inv(TO_LPS @ image.affine)
    seen = set()
    for frame, pixels in zip(one.PerFrameFunctionalGroupsSequence, frames, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        voxel = nib.affines.apply_affine(to_voxel, corner)
        i, j, k = voxel.round().astype(int)
        faults['places'] += np.abs(voxel - (i, j, k)).max() > 1e-3 or (i, j) != (0, true.shape[1] - 1)
        faults['values'] += not np.array_equal(pixels, np.nan_to_num(true[:, ::-1, k].T))
        seen.add(k)
    faults['slices'] += seen != set(range(true.shape[2]))
    faults['identity'] += any(one[key].value != source[key].value for key in SAME)
    faults['dciodvfy'] += errors_of(path)
    return +faults, f'{worst:.2f}'


def errors_of(path: Path) -> int:
    """Errors that dciodvfy finds; none where it is not installed."""
    if not shutil.which('dciodvfy'):
        return 0
    done = subprocess.run(['dciodvfy', '-new', path], capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith('Error')]
    for line in lines:
        print(f'{path.name}: {line}')
    return len(lines)


def make_maps(out: Path, subject: str, chi: np.ndarray, magnitude: np.ndarray, affine: np.ndarray):
    """Write a map and a magnitude as the participant level writes susceptibility and SWI."""
    folder = out / f'sub-{subject}' / 'anat'
    folder.mkdir(parents=True)
    for suffix, values in (('Chimap', chi), ('swi', magnitude)):
        image = nib.Nifti1Image(values.astype(np.float32), affine)
        nib.save(image, folder / f'sub-{subject}_{suffix}.nii.gz')


def put_through(
    scan: Scan, write, root: Path, maps, options: Sequence[str] | None = None, beside: Scan | None = None
):
    """Import a scan, make maps or have the participant level make them, and export: faults of both ways.

    ``options`` are those of the participant level. Where there are none, it does not run, and ``maps``
    (susceptibility, magnitude and affine) stand in. ``beside`` is a T1w image of the same study.
    """
    dicom, bids, out, dest = (root / name for name in ('dicom', 'bids', 'out', 'dest'))
    write(dicom, scan)
    if beside is not None:
        write_classic(dicom, beside)
    run('import', dicom, bids)
    faults = compare_import(scan, bids, '01')
    if beside is not None:
        faults['T1w'] += not (bids / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz').exists()
    if options is not None:
        run(bids, out, 'participant', *options)
    else:
        image = nib.load(next((bids / 'sub-01' / 'anat').glob('*part-mag*.nii.gz')))
        make_maps(out, '01', *on_grid(*maps, image))
    run('export', out, dicom, dest, '--table', root / 'bids_import.tsv')
    source = pydicom.dcmread(sorted(dicom.glob(f'{scan.number:04d}*'))[0], stop_before_pixels=True)
    back, worst = compare_export(dest, out, '01', source)
    return +faults, back, worst


def on_grid(chi, magnitude, affine, image):
    """Maps on the grid of an image whose voxels are the same, in another order."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.io_orientation(image.affine))
    turned = [nib.Nifti1Image(values, affine).as_reoriented(turn) for values in (chi, magnitude)]
    return turned[0].dataobj, turned[1].dataobj, image.affine


def agreement(out: Path, other: nib.Nifti1Image, other_mask: nib.Nifti1Image):
    """How a susceptibility agrees with another where both have a brain: slope, r, spread of the difference.

    The other may have another grid; the spread is in ppb.
    """
    folder = out / 'sub-01' / 'anat'
    chi, mask = (nib.load(folder / f'sub-01_{name}.nii.gz') for name in ('Chimap', 'desc-brain_mask'))
    to_other = np.linalg.inv(other.affine) @ chi.affine
    index = np.moveaxis(nib.affines.apply_affine(to_other, np.stack(np.indices(chi.shape), -1)), -1, 0)
    there = ndimage.map_coordinates(np.asarray(other_mask.dataobj, float), index, order=1) > 0.99
    inside = (np.asarray(mask.dataobj) > 0) & there
    second = chi.get_fdata()[inside]
    first = ndimage.map_coordinates(other.get_fdata(), index, order=3)[inside]
    return np.polyfit(first, second, 1)[0], np.corrcoef(first, second)[0, 1], 1000 * (second - first).std()


def is_wrong_map(slope: float, r: float) -> bool:
    """Whether a susceptibility agrees with the truth less than any reconstruction of right images does."""
    return not (r > LEAST_R and slope > LEAST_SLOPE)  # also of NaN


def told(faults):
    return ', '.join(f'{name} {n}' for name, n in faults.items()) or 'right'


def survey():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--scans', nargs='+', choices=KINDS, default=list(KINDS))
    parser.add_argument('--whole', nargs='*', choices=KINDS, default=list(KINDS))
    parser.add_argument(
        '--t1w', action='store_true', help='a T1w image and defaults of the participant level for all scans'
    )
    parser.add_argument('--voxel', type=float, default=3.0, help='mm (%(default)s)')
    parser.add_argument(
        '--keep', type=Path, help='folder in which all files stay; those of an earlier run are removed'
    )
    given = parser.parse_args()
    root = given.keep or Path(tempfile.mkdtemp(prefix='dicom-'))
    heads, is_wrong, firsts = Heads(given.voxel), False, {}
    columns = ('scan', 'imported', 'exported', 'largest difference after export (steps)')
    columns += ('r', 'slope', 'spread (ppb)', 'to the first of its slab (ppb)')
    print(f'| {" | ".join(columns)} |\n{"|---" * len(columns)}|')
    for name in given.scans:
        scan, beside = heads.scan(name)
        folder = root / name.replace(', ', '-').replace(' ', '')
        shutil.rmtree(folder, ignore_errors=True)
        has_t1w = given.t1w or (name in given.whole and KINDS[name].slab not in firsts)
        options = None if name not in given.whole else () if has_t1w else MAPS_ALONE
        faults, back, worst = put_through(
            scan, KINDS[name].write, folder, heads.truth(name), options, beside if has_t1w else None
        )
        cells = ['', '', '', '']
        if options is not None:
            slope, r, spread = agreement(folder / 'out', *heads.true_images(name))
            back['susceptibility'] += is_wrong_map(slope, r)
            first = firsts.setdefault(KINDS[name].slab, folder / 'out')
            anat = first / 'sub-01' / 'anat'
            others = [nib.load(anat / f'sub-01_{key}.nii.gz') for key in ('Chimap', 'desc-brain_mask')]
            apart = agreement(folder / 'out', *others)[2]
            back['difference'] += not apart <= MOST_APART  # also of NaN
            told_apart = '' if first == folder / 'out' else f'{apart:.2f}'
            cells = [f'{r:.3f}', f'{slope:.3f}', f'{spread:.1f}', told_apart]
        back = +back
        is_wrong |= bool(faults or back)
        print(f'| {" | ".join([name, told(faults), told(back), worst, *cells])} |', flush=True)
    if given.keep is None:
        shutil.rmtree(root)
    return int(is_wrong)


if __name__ == '__main__':
    sys.exit(survey())
