"""How long it takes to find the series of a large dataset.

python benchmarks/find.py [--subjects 300]

Each has 2 sessions of 5 echoes in magnitude and phase, and a T1w image; all images are links to one of a few
voxels. One line tells the seconds and what was found.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bids_qsm.app.options import Options
from bids_qsm.layout import find_series
from tests.skeletons import write_dataset, write_image, write_json


def write(root: Path, subjects: int) -> Path:
    """A dataset of that many subjects."""
    data, image = write_dataset(root / 'data'), write_image(root / 'image.nii.gz')
    write_json(data / 'MEGRE.json', {'MagneticFieldStrength': 3.0, 'FlipAngle': 12})
    for n in range(1, subjects + 1):
        for session in '12':
            stem = f'sub-{n:03d}_ses-{session}'
            anat = data.joinpath(*stem.split('_'), 'anat')
            names = {f'{stem}_T1w': {}}
            for echo in range(1, 6):
                for part in ('mag', 'phase'):
                    names[f'{stem}_echo-{echo}_part-{part}_MEGRE'] = {'EchoTime': 0.004 * echo}
            for name, content in names.items():
                write_json(anat / f'{name}.json', content)
                (anat / f'{name}.nii.gz').hardlink_to(image)
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--subjects', type=int, default=300)
    subjects = parser.parse_args().subjects
    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder), subjects)
        options = Options(data, Path(folder) / 'out', 'participant', skip_bids_validation=True)
        start, before = time.perf_counter(), time.process_time()
        plan = find_series(options)
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
    print(f'{subjects} subjects: {len(plan.series)} series in {seconds:.1f} s ({cpu:.1f} s of CPU)')


if __name__ == '__main__':
    main()
