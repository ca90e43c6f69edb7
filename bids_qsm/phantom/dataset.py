"""Simulated BIDS datasets with known truth."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import numba
import numpy as np
import pandas as pd
from pebble import ProcessPool

from bids_qsm import __version__
from bids_qsm.anatomy import atlas
from bids_qsm.phantom.bold import BoldProtocol
from bids_qsm.phantom.bold_dataset import write_bold
from bids_qsm.phantom.ct import Tomogram, simulate_ct
from bids_qsm.phantom.diffusion import DiffusionProtocol, simulate_diffusion
from bids_qsm.phantom.families import Family
from bids_qsm.phantom.fibres import MIDDLE, Fibres
from bids_qsm.phantom.files import save_image, save_json
from bids_qsm.phantom.gre import Protocol, Simulation, simulate, store_phase
from bids_qsm.phantom.head import Head, Lesion, make_head
from bids_qsm.phantom.perfusion import simulate_perfusion
from bids_qsm.phantom.sources import Relaxivity, Sources, add_sources
from bids_qsm.phantom.spin_echo import SpinEchoes, simulate_spin_echoes
from bids_qsm.phantom.t1w import simulate_t1w
from bids_qsm.phantom.vessels import CLASSES
from bids_qsm.recon.units import mhz_from_tesla
from bids_qsm.threads import end_with_main, set_threads

README = """Simulated data, made by bids_qsm {version}
==========================================

No person was scanned. Digital heads went through a simulated multi-echo gradient-echo acquisition; what they
were made of stands in derivatives/truth. The heads build on the ICBM152 2009a template (bundled with nilearn)
and on the geometry of the deep grey nuclei of the CIT168 atlas (Pauli, Nili & Tyszka 2018,
doi:10.1038/sdata.2018.63, CC BY 4.0).
"""


@dataclass(frozen=True)
class Visit:
    """One subject's session in a simulated dataset.

    ``person`` seeds the anatomy; visits of the same subject should share it. ``t1w`` is the voxel size (mm)
    of the T1-weighted image, None for none. ``effects`` and ``lesions`` are those of Head.changed.
    ``bold`` adds a BOLD run, raw and as fMRIPrep would have prepared it; it needs a T1w image. ``turned`` is
    how the head lies, degrees about x, y and z; None for some 2 degrees and 2 mm at random. ``ct`` adds a CT,
    for which BIDS has no name: ``ct/<stem>_ct.nii.gz``. ``spin_echoes`` adds a train of spin echoes on a grid
    and in a pose of its own, and makes R2* of the head that of sources with a ``relaxivity``; ``has_b1`` adds
    a map of its transmit field. ``acq`` tells several series of a session apart. ``fibres`` makes the
    susceptibility of white matter a tensor, which ``diffusion`` images show, on a grid and in a pose of
    their own. ``size`` is the length of the head over that of one made of the template, whose brain with the
    fluid around it has 1.9 l, more than most people's.
    """

    subject: str
    session: str | None = None
    person: int = 0
    protocol: Protocol = field(default_factory=Protocol)
    t1w: float | None = 1.0
    effects: Mapping[str, float] = field(default_factory=dict)
    lesions: tuple[Lesion, ...] = ()
    bold: BoldProtocol | None = None
    turned: tuple[float, float, float] | None = None
    ct: Tomogram | None = None
    spin_echoes: SpinEchoes | None = None
    relaxivity: Relaxivity = field(default_factory=Relaxivity)
    has_b1: bool = False
    acq: str | None = None
    fibres: Fibres | None = None
    diffusion: DiffusionProtocol | None = None
    size: float = 1.0

    @property
    def stem(self):
        """First part of the file names."""
        return f'sub-{self.subject}' + (f'_ses-{self.session}' if self.session else '')

    @property
    def series(self):
        """First part of the file names of the series, and of its truth."""
        return self.stem + (f'_acq-{self.acq}' if self.acq else '')

    @property
    def folder(self):
        """Folder of the images, relative to the dataset."""
        return '/'.join((*self.stem.split('_'), 'anat'))


def write_dataset(
    path: str | Path,
    visits: Sequence[Visit],
    *,
    participants: Mapping[str, dict] | None = None,
    seed: int = 0,
    spacing: float = 1.0,
    variation: float = 0.1,
    family: str | Family = 'atlas',
    blood: bool = False,
    perfusion: bool = False,
    nprocs: int = 1,
):
    """Simulate visits and write them as a BIDS dataset, the truth beside them in ``derivatives/truth``.

    Parameters
    ----------
    path : path-like
        Folder to make.
    visits : sequence of Visit
    participants : dict of str to dict, optional
        Age, sex and group by subject label.
    seed : int
        The same seed and visits give the same files, byte for byte.
    spacing, variation, family
        Of the digital heads, see make_head.
    blood : bool
        Add the columns hematocrit (a share) and sao2 (%) to participants.tsv.
    perfusion : bool
        Write maps of cerebral blood flow in the space of the T1-weighted image, for visits that have one,
        into ``derivatives/perfusion``, and those of oxygen extraction and use beside the other truth.
    nprocs : int
        People simulated at a time, each in a process of its own where there are several.

    Returns
    -------
    Path
        The dataset.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    _describe(path, 'Simulated QSM dataset', {'DatasetType': 'raw', 'License': 'CC BY 4.0'})
    (path / 'README').write_text(README.format(version=__version__))
    people = {subject: dict(traits) for subject, traits in (participants or {}).items()}
    truth = path / 'derivatives' / 'truth'
    _describe_derivative(truth, 'Truth of the simulated dataset')
    if any(v.lesions for v in visits):
        _describe_derivative(path / 'derivatives' / 'lesions', 'Lesion masks of the simulated dataset')
    if perfusion:
        flow = path / 'derivatives' / 'perfusion'
        _describe_derivative(flow, 'Blood flow of the simulated dataset')
        # suffixes that BIDS does not have
        (flow / '.bidsignore').write_text('*_cbf.*\n')
    # nor these; a true R2 has a name of its own, as it is none that a user gives
    ignored = ['*_OEFmap.*', '*_CMRO2map.*'] if perfusion else []
    ignored += ['*_R2truemap.*'] if any(v.spin_echoes for v in visits) else []
    ignored += ['*_FAmap.*', '*_V1map.*'] if any(v.fibres for v in visits) else []
    if ignored:
        (truth / '.bidsignore').write_text('\n'.join(ignored) + '\n')
    if any(v.ct for v in visits):
        (path / '.bidsignore').write_text('ct/\n')
    heads = partial(make_head, spacing=spacing, variation=variation, family=family)
    write = partial(_write_person, path, seed=seed, heads=heads, perfusion=perfusion)
    parts = [list(part) for _, part in groupby(enumerate(visits), lambda one: one[1].person)]
    has_several = nprocs > 1 and len(parts) > 1
    made = _side_by_side(write, parts, nprocs) if has_several else list(map(write, parts))
    if blood:
        for part, traits in zip(parts, made, strict=True):
            for _, visit in part:
                people.setdefault(visit.subject, {}).update(traits)
    _write_participants(path, visits, people)
    return path


def _side_by_side(work: Callable, parts: Sequence, nprocs: int) -> list:
    """What ``work`` returns of each part, each in one of ``nprocs`` processes; the last may have all CPUs."""
    threads = numba.get_num_threads()
    with ProcessPool(nprocs, 0, _begin_worker, (threads,), get_context('spawn')) as pool:
        try:
            return [one.result() for one in [pool.schedule(work, args=[part]) for part in parts]]
        except BaseException:
            pool.stop()  # at once, and not after what they do
            raise


def _begin_worker(threads: int):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to all processes of a terminal
    end_with_main()
    set_threads(threads)


def demo(path: str | Path, *, seed: int = 0, nprocs: int = 1):
    """Write the demo dataset: a patient with iron in the basal ganglia and lesions, and a control seen twice.

    Acquired at 3 T, 1.5 mm, four echoes, oblique; the vendors' phase conventions differ. The control's nuclei
    change a little between the sessions, and only the first has a T1-weighted image. The heads are of common
    size: brains of 1.5 and 1.6 l with the fluid around them.
    """
    siemens = Protocol(
        (1.5, 1.5, 1.5),
        fov=(177.0, 207.0, 162.0),
        echo_times=(0.005, 0.012, 0.019, 0.026),
        rotation=(15, 2, 0),
        snr=90,
        phase_format='siemens',
    )
    philips = replace(siemens, rotation=(-12, 0, 4), manufacturer='Philips', phase_format='philips', sign=-1)
    lesions = (
        Lesion((-24, -22, 30), 5.0, 0.05, rim=0.06),
        Lesion((27, -44, 22), 4.0, 0.06),
        Lesion((-23, 28, 14), 3.5, 0.04),
        Lesion((0, -27, 1), 2.5, -0.4, kind='calcification'),
    )
    visits = [
        Visit('01', '1', 2 + 10 * seed, philips, 1.5, {'GP': 1.9, 'SN': 1.6}, lesions, size=0.92),
        Visit('02', '1', 1 + 10 * seed, siemens, 1.5, size=0.92),
        Visit('02', '2', 1 + 10 * seed, siemens, None, {'GP': 1.06, 'SN': 1.10, 'Putamen': 1.15}, size=0.92),
    ]
    people = {
        '01': {'age': 41, 'sex': 'M', 'group': 'patient'},
        '02': {'age': 34, 'sex': 'F', 'group': 'control'},
    }
    return write_dataset(path, visits, participants=people, seed=seed, nprocs=nprocs)


def tiny(path: str | Path, *, seed: int = 0, protocol: Protocol | None = None):
    """Write a dataset of one subject at 4 mm with three echoes, for tests: coarse, but complete."""
    protocol = protocol or Protocol((4.0, 4.0, 4.0), echo_times=(0.004, 0.009, 0.014), rotation=(12, 0, 0))
    return write_dataset(path, [Visit('01', None, seed, protocol, 2.0)], seed=seed, spacing=2.0)


def _write_person(
    path: Path,
    visits: Sequence[tuple[int, Visit]],
    *,
    seed: int,
    heads: Callable[[int], Head],
    perfusion: bool,
) -> dict:
    """Write the visits of a person, each with its number; return what is known of the person's blood."""
    person = visits[0][1].person
    head = heads(person)
    for n, visit in visits:
        seeds = np.random.SeedSequence([seed, person, n]).generate_state(3)
        here = replace(head.changed(visit.effects, visit.lesions), fibres=visit.fibres)
        _write_visit(path, visit, here, seeds, perfusion)
    return {
        'hematocrit': round(head.blood.hematocrit, 4),
        'sao2': round(100 * head.blood.arterial, 2),
    }


def _write_visit(path: Path, visit: Visit, head: Head, seeds: np.ndarray, perfusion: bool):
    rng = np.random.default_rng(seeds[0])
    # the pose differs between visits and between the scans of a visit
    lies = rng.normal(0, 2, 3), rng.normal(0, 2, 3)
    head = head.scaled(visit.size).moved(*lies if visit.turned is None else (visit.turned, np.zeros(3)))
    sources = None
    if visit.spin_echoes is not None:
        sources = add_sources(head, visit.relaxivity, visit.person)
        head = sources.head
    simulation = simulate(head, visit.protocol, seeds[1])
    folder = path / visit.folder
    folder.mkdir(parents=True, exist_ok=True)
    _write_echoes(folder, visit, simulation)
    if visit.t1w:
        later = head.moved(rng.normal(0, 1.5, 3), rng.normal(0, 1.5, 3))
        image, affine = simulate_t1w(later, seeds[2], voxel_size=(visit.t1w,) * 3)
        name = folder / f'{visit.stem}_T1w'
        save_image(image.astype(np.int16), affine, name)
        save_json(
            name,
            {
                **_scanner(visit.protocol),
                'RepetitionTime': 2.3,
                'InversionTime': 0.9,
                'EchoTime': 0.003,
                'FlipAngle': 9,
                'PulseSequenceType': 'MPRAGE',
            },
        )
        if visit.bold:
            last = later.moved(rng.normal(0, 1.5, 3), rng.normal(0, 1.5, 3))
            write_bold(path, visit.stem, last, later, image, affine, visit.bold, int(seeds[2]))
        if perfusion:
            _write_perfusion(path / 'derivatives', visit, later, image.shape, affine)
    _write_truth(path / 'derivatives', visit, simulation)
    if visit.fibres is not None:
        _write_fibres(path / 'derivatives', visit, head, simulation)
        if visit.diffusion is not None:
            lies = rng.normal(0, 1.5, 3), rng.normal(0, 1.5, 3)
            _write_diffusion(path, visit, head.moved(*lies), int(seeds[1]))
    if visit.ct is not None:
        _write_ct(path, visit, visit.ct, head, seeds[0])
    if sources is not None:
        lies = rng.normal(0, 1.5, 3), rng.normal(0, 1.0, 3)
        _write_spin_echoes(path, visit, sources, lies, int(seeds[1]))


def _write_ct(path: Path, visit: Visit, scan: Tomogram, head: Head, seed: int):
    """The CT, and beside the other truth how it lies to the series, and how dense the foci are."""
    image, affine, to_ct, density = simulate_ct(head, seed, scan)
    folder = path / visit.folder.replace('anat', 'ct')
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f'{visit.stem}_ct'
    save_image(image, affine, name)
    save_json(
        name, {'Modality': 'CT', 'Units': 'HU', 'BodyPart': 'HEAD', 'SliceThickness': scan.voxel_size[2]}
    )
    truth = path / 'derivatives' / 'truth' / visit.folder / f'{visit.series}_from-MEGRE_to-CT_mode-image_xfm'
    about = 'Takes scanner coordinates of the series to those of the CT (RAS, mm)'
    added = [round(one, 1) for one in density]
    save_json(truth, {'Description': about, 'Matrix': to_ct.round(6).tolist(), 'AddedDensity': added})


def _write_spin_echoes(
    path: Path, visit: Visit, sources: Sources, lies: tuple[np.ndarray, np.ndarray], seed: int
):
    """The train, a map of its transmit field in percent, and the true R2 on the grid of the series."""
    rotation, translation = lies
    scan = simulate_spin_echoes(sources, seed, visit.spin_echoes, rotation=rotation, translation=translation)
    train = scan.protocol.train
    common = {
        **_scanner(visit.protocol),
        'MRAcquisitionType': '3D' if len(scan.protocol.profile) == 1 else '2D',
        'RepetitionTime': scan.protocol.repetition_time,
        'FlipAngle': 90,
        'PulseSequenceType': 'Multi-echo spin echo',
    }
    for n in range(train.n):
        name = path / visit.folder / f'{visit.stem}_echo-{n + 1}_MESE'
        save_image(np.round(4 * scan.magnitude[..., n]).astype(np.int16), scan.affine, name)
        save_json(name, {**common, 'EchoTime': round((n + 1) * train.spacing, 6), 'Units': 'arbitrary'})
    if visit.has_b1:
        folder = path / visit.folder.replace('anat', 'fmap')
        folder.mkdir(parents=True, exist_ok=True)
        few = [max(round(4 / v), 1) for v in scan.protocol.voxel_size]
        name = folder / f'{visit.stem}_TB1map'
        coarse = scan.b1[tuple(slice(None, None, step) for step in few)]
        save_image((100 * coarse).astype(np.float32), scan.affine @ np.diag([*few, 1.0]), name)
        save_json(name, {**_scanner(visit.protocol), 'Units': 'percent'})
    name = path / 'derivatives' / 'truth' / visit.folder / f'{visit.stem}_R2truemap'
    truth = sources.measured(visit.protocol)['r2']
    save_image(truth.astype(np.float32), visit.protocol.affine, name)
    save_json(name, {'Units': '1/s', 'Description': "True R2, and R2' is R2* less it", 'SkullStripped': True})


def _scanner(protocol: Protocol):
    return {
        'Manufacturer': protocol.manufacturer,
        'MagneticFieldStrength': protocol.field_strength,
        'ImagingFrequency': round(mhz_from_tesla(protocol.field_strength), 6),
        'MRAcquisitionType': '3D',
        'BodyPart': 'HEAD',
    }


def _write_echoes(folder: Path, visit: Visit, simulation: Simulation):
    protocol = simulation.protocol
    for n, time in enumerate(protocol.echo_times):
        sidecar = {
            **_scanner(protocol),
            'EchoTime': time,
            'RepetitionTime': protocol.repetition_time,
            'FlipAngle': protocol.flip_angle,
            'PulseSequenceType': 'Spoiled gradient echo',
        }
        magnitude, phase = simulation.magnitude[..., n], simulation.phase[..., n]
        if not protocol.nan_outside:
            magnitude = np.round(4 * magnitude).astype(np.int16)
        images = {'mag': magnitude, 'phase': store_phase(phase, protocol.phase_format)}
        units = {'mag': 'arbitrary', 'phase': 'rad' if protocol.phase_format == 'rad' else 'arbitrary'}
        for part, image in images.items():
            name = folder / f'{visit.series}_echo-{n + 1}_part-{part}_MEGRE'
            save_image(image, simulation.affine, name)
            save_json(name, {**sidecar, 'Units': units[part]})


def _write_perfusion(
    derivatives: Path,
    visit: Visit,
    head: Head,
    shape: Sequence[int],
    affine: np.ndarray,
    *,
    voxel: float = 3.0,
):
    """Maps of flow and oxygen along the axes of the T1w image, of ``voxel`` mm or of its voxels."""
    times = max(voxel / np.sqrt((affine[:3, 0] ** 2).sum()), 1.0)
    coarse = affine @ np.diag([times, times, times, 1])
    coarse[:3, 3] = affine[:3, :3] @ np.full(3, times / 2 - 0.5) + affine[:3, 3]
    maps = simulate_perfusion(head, tuple(int(n / times) for n in shape), coarse)
    source = [f'bids:raw:{visit.folder}/{visit.stem}_T1w.nii.gz']
    for kind, place, suffix, unit in (
        ('cbf', 'perfusion', 'cbf', 'mL/100 g/min'),
        ('oef', 'truth', 'OEFmap', 'arbitrary'),
        ('cmro2', 'truth', 'CMRO2map', 'umol/100 g/min'),
    ):
        folder = derivatives / place / visit.folder.replace('anat', 'perf')
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / f'{visit.stem}_space-T1w_{suffix}'
        save_image(maps[kind].astype(np.float32), coarse, name)
        save_json(name, {'Units': unit, 'Sources': source})


def _write_veins(stem: Path, truth: Mapping[str, np.ndarray], affine: np.ndarray, source: list[str]):
    """Share, susceptibility and class of the veins."""
    table = {'index': CLASSES.values(), 'name': CLASSES.keys()}
    pd.DataFrame(table).to_csv(f'{stem}_seg-veins_dseg.tsv', sep='\t', index=False)
    about = 'Of the venous blood itself, relative to water'
    for key, suffix, dtype, sidecar in (
        ('veins', 'label-vein_probseg', np.float32, {'Description': 'Share of venous blood'}),
        (
            'vein_chi',
            'desc-vein_Chimap',
            np.float32,
            {'Units': 'ppm', 'SkullStripped': False, 'Description': about},
        ),
        ('vein_dseg', 'seg-veins_dseg', np.uint8, {'Manual': False}),
    ):
        save_image(truth[key].astype(dtype), affine, f'{stem}_{suffix}')
        save_json(f'{stem}_{suffix}', {**sidecar, 'Sources': source})


def _write_truth(derivatives: Path, visit: Visit, simulation: Simulation):
    truth, affine = simulation.truth, simulation.affine
    source = [f'bids:raw:{visit.folder}/{visit.series}_echo-1_part-mag_MEGRE.nii.gz']
    folder = derivatives / 'truth' / visit.folder
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / visit.series
    maps = {'Chimap': ('chi', 'ppm'), 'R2starmap': ('r2star', '1/s')}
    for suffix, (key, unit) in maps.items():
        save_image(truth[key].astype(np.float32), affine, f'{stem}_{suffix}')
        sidecar = {'Units': unit, 'SkullStripped': True, 'Sources': source}
        if key == 'chi':
            sidecar['Description'] = 'Relative to tissue water: CSF is 0.019, air 9.4'
        save_json(f'{stem}_{suffix}', sidecar)
    save_image(truth['mask'].astype(np.uint8), affine, f'{stem}_desc-brain_mask')
    save_json(f'{stem}_desc-brain_mask', {'Type': 'Brain', 'Sources': source})
    save_image(truth['dseg'].astype(np.uint8), affine, f'{stem}_seg-nuclei_dseg')
    save_json(f'{stem}_seg-nuclei_dseg', {'Manual': False, 'Sources': source})
    atlas.labels().to_csv(f'{stem}_seg-nuclei_dseg.tsv', sep='\t', index=False)
    _write_veins(stem, truth, affine, source)
    wanted = [n for n, lesion in enumerate(visit.lesions, 1) if lesion.kind == 'lesion']
    if wanted:
        folder = derivatives / 'lesions' / visit.folder
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / f'{visit.series}_label-lesion_mask'
        save_image(np.isin(truth['lesions'], wanted).astype(np.uint8), affine, name)
        save_json(name, {'Type': 'Lesion', 'Sources': source})


def _write_fibres(derivatives: Path, visit: Visit, head: Head, simulation: Simulation):
    """Fractional anisotropy, direction along the axes of the scanner, and anisotropy of susceptibility."""
    affine = simulation.affine
    fractions, vectors = head.fibre_maps(simulation.truth['chi'].shape, affine)
    assert visit.fibres is not None
    anisotropy = fractions * np.float32(visit.fibres.anisotropy / MIDDLE)
    stem = derivatives / 'truth' / visit.folder / visit.series
    about = 'Unit vectors along the axes of the scanner (RAS)'
    for data, suffix, sidecar in (
        (fractions, 'FAmap', {'Units': 'arbitrary'}),
        (vectors, 'V1map', {'Units': 'arbitrary', 'Description': about}),
        (anisotropy, 'desc-msa_Chimap', {'Units': 'ppm', 'Description': 'Along less across fibres'}),
    ):
        save_image(data.astype(np.float32), affine, f'{stem}_{suffix}')
        save_json(f'{stem}_{suffix}', sidecar)


def _write_diffusion(path: Path, visit: Visit, head: Head, seed: int):
    """Diffusion images with their tables of gradients."""
    assert visit.diffusion is not None
    scan = simulate_diffusion(head, visit.diffusion, seed)
    folder = path / visit.folder.replace('anat', 'dwi')
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f'{visit.stem}_dwi'
    save_image(np.round(1000 * scan.images).astype(np.int16), scan.affine, name)
    more = {'EchoTime': 0.08, 'RepetitionTime': 8.0, 'FlipAngle': 90, 'PulseSequenceType': 'Spin echo EPI'}
    save_json(name, {**_scanner(visit.protocol), **more, 'MRAcquisitionType': '2D', 'Units': 'arbitrary'})
    np.savetxt(f'{name}.bval', scan.bvals[None], '%g')
    np.savetxt(f'{name}.bvec', scan.bvecs.T, '%.6f')


def _write_participants(path: Path, visits: Sequence[Visit], participants: Mapping[str, dict]):
    rows = []
    for subject in dict.fromkeys(v.subject for v in visits):
        rows.append({'participant_id': f'sub-{subject}', **participants.get(subject, {})})
    pd.DataFrame(rows).to_csv(path / 'participants.tsv', sep='\t', index=False, na_rep='n/a')
    columns = {
        'age': {'Description': 'Age', 'Units': 'year'},
        'sex': {'Description': 'Sex', 'Levels': {'F': 'female', 'M': 'male'}},
        'group': {'Description': 'Group', 'Levels': {'control': 'control', 'patient': 'patient'}},
        'hematocrit': {'Description': 'Hematocrit, as a share of the volume of blood'},
        'sao2': {'Description': 'Oxygen saturation of arterial blood', 'Units': '%'},
    }
    save_json(path / 'participants', {k: v for k, v in columns.items() if any(k in row for row in rows)})


def _describe_derivative(path: Path, name: str):
    links = {'DatasetType': 'derivative', 'DatasetLinks': {'raw': '../..'}}
    _describe(path, name, {**links, 'GeneratedBy': [{'Name': 'bids_qsm phantom', 'Version': __version__}]})


def _describe(path: Path, name: str, more: dict):
    path.mkdir(parents=True, exist_ok=True)
    save_json(path / 'dataset_description', {'Name': name, 'BIDSVersion': '1.10.0', **more})
