"""Make the heads of the pictures of applications, and run the program on them.

python docs/ext/heads.py FOLDER [HEAD ...]

writes each head to FOLDER/HEAD/data and its results to FOLDER/HEAD/out, whose figures docs/pictures.md shows:

positions: a head in eight positions, whose white matter is anisotropic (2.5 mm).
patient: a head with lesions, some of them around a vein, iron on the cortex, and a calcification that a CT
  shows (1.25 mm).
relaxation: a head with spin echoes (2 mm).
bundles: a head with fibres and diffusion images (2 mm).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from scipy import ndimage

from bids_qsm.app import cli
from bids_qsm.phantom import dataset, tissue
from bids_qsm.phantom.ct import Tomogram
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.diffusion import DiffusionProtocol
from bids_qsm.phantom.fibres import Fibres
from bids_qsm.phantom.gre import Protocol
from bids_qsm.phantom.head import Head, make_head
from bids_qsm.phantom.lesions import Lesion, scatter
from bids_qsm.phantom.positions import head_turns, positions
from bids_qsm.phantom.siderosis import add_sheets, scatter_sheets
from bids_qsm.phantom.spin_echo import SpinEchoes

SEED = 31
FIELD = (184.0, 216.0, 168.0)
SCAN = Protocol(
    (2.0, 2.0, 2.0), fov=FIELD, echo_times=(0.005, 0.012, 0.019, 0.026), rotation=(8, 0, 0), snr=90
)


def in_positions(folder: Path):
    scan = replace(SCAN, voxel_size=(2.5, 2.5, 2.5))
    visits = positions('01', SEED, head_turns(8), scan, fibres=Fibres(SEED), follows=1.0, t1w=1.5)
    write_dataset(folder, [replace(one, size=0.92) for one in visits], seed=SEED)


def patient(folder: Path):
    scan = replace(SCAN, voxel_size=(1.25, 1.25, 1.25), snr=80)
    head = make_head(SEED, family='surface')
    sheets = scatter_sheets(SEED, head, 4, radius=(8.0, 12.0), thickness=(0.8, 1.2), chi=(0.8, 1.2))
    lesions = (*around_veins(head, 4), *scatter(SEED, head, lesions=2))
    lesions += (Lesion((-27.0, 30.0, 12.0), 3.5, -0.4, kind='calcification'),)
    visit = Visit('01', None, SEED, scan, 1.2, lesions=lesions, ct=Tomogram(), size=0.92)
    head = add_sheets(head, sheets)
    # visits have no sheets
    with mock.patch.object(dataset, 'make_head', return_value=head):
        write_dataset(folder, [visit], seed=SEED)


def around_veins(head: Head, count: int) -> tuple[Lesion, ...]:
    """Lesions in white matter whose middle is that of a vein; wide veins first."""
    volume = head.tissue
    white = ndimage.minimum_filter(tissue.channels(volume.data)['white'], 7)
    found: list[Lesion] = []
    for vein in sorted(head.tree, key=lambda one: -one.diameter):
        middle = vein.points[len(vein.points) // 2]
        at = tuple(np.round((middle - volume.origin) / volume.spacing).astype(int))
        is_apart = all(np.linalg.norm(middle - one.centre) > 22 for one in found)
        if vein.kind == 'deep medullary vein' and vein.length > 6 and white[at] > 0.6 and is_apart:
            found.append(Lesion(tuple(map(float, middle)), 4.0, 0.04))
        if len(found) == count:
            break
    return tuple(found)


def relaxation(folder: Path):
    echoes = SpinEchoes((1.5, 1.5, 3.0), fov=FIELD)
    write_dataset(folder, [Visit('01', None, SEED, SCAN, 1.5, spin_echoes=echoes, size=0.92)], seed=SEED)


def bundles(folder: Path):
    visit = Visit('01', None, SEED, SCAN, 1.5, fibres=Fibres(SEED), diffusion=DiffusionProtocol(), size=0.92)
    write_dataset(folder, [visit], seed=SEED)


HEADS = {
    'positions': (in_positions, ('--cosmos', '--tensor')),
    'patient': (patient, ('--centralvein', '--siderosis', '--candidates')),
    'relaxation': (relaxation, ('--r2prime',)),
    'bundles': (bundles, ('--fibres',)),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('heads', nargs='*', metavar='HEAD', help=', '.join(HEADS))
    given = parser.parse_args(argv)
    failed = 0
    for name in given.heads or HEADS:
        make, flags = HEADS[name]
        data, out, work = (str(given.folder / name / part) for part in ('data', 'out', 'work'))
        if not Path(data).exists():
            make(Path(data))
        failed |= cli.main([data, out, 'participant', '--work-dir', work, *flags])
    return failed


if __name__ == '__main__':
    raise SystemExit(main())
