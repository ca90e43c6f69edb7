"""A small job that runs in seconds, the means to disturb it, and the comparison of what came of it."""

import filecmp
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from bids_qsm.anatomy.atlas import labels, nuclei_atlas
from bids_qsm.anatomy.transform import resample
from bids_qsm.phantom.dataset import Visit, write_dataset
from bids_qsm.phantom.gre import Protocol

SPACE = 'Tiny'
SECONDS = 600
"""After which a run hangs."""
RUN_AGAIN = {'logs', 'work'}
"""What may differ between two runs in the output."""


@dataclass(frozen=True)
class Job:
    """A dataset with all that a short run of it needs, and where it writes."""

    root: Path

    @property
    def data(self):
        return self.root / 'data'

    @property
    def out(self):
        return self.root / 'out'

    @property
    def work(self):
        return self.root / 'work'

    @property
    def anat(self):
        return self.data / 'sub-01' / 'anat'

    @property
    def nodes(self):
        return self.work / 'bids_qsm_wf'

    def arguments(self, *more):
        """Of the command line, for the run that all cases disturb."""
        return [
            *(str(self.data), str(self.out), 'participant', '-w', str(self.work)),
            *('-d', f'fmriprep={self.root / "fmriprep"}', '--output-spaces', SPACE, '--refinement', 'none'),
            *('--atlas', str(self.root / f'tpl-{SPACE}_atlas-coarse_dseg.nii.gz')),
            *('--skip-bids-validation', '--nprocs', '2', '--omp-nthreads', '1', '--mem', '8', *more),
        ]

    def start(self, *more, prefix=(), env=None):
        """A run in a process group of its own; ``prefix`` comes before its command."""
        own = {'TEMPLATEFLOW_HOME': str(self.root / 'templateflow'), **(env or {})}
        return subprocess.Popen(
            [*prefix, sys.executable, '-m', 'bids_qsm', *self.arguments(*more)],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *more, prefix=()):
        """(exit status, what it said) of a run; it is killed if it hangs."""
        process = self.start(*more, prefix=prefix)
        try:
            said = process.communicate(timeout=SECONDS)[0]
        except subprocess.TimeoutExpired:
            kill(process)
            raise
        return process.returncode, said

    def clear(self):
        """Remove what runs wrote."""
        for folder in (self.out, self.work):
            shutil.rmtree(folder, ignore_errors=True)

    def save(self):
        """Keep what runs wrote, for :meth:`restore`."""
        for folder in (self.out, self.work):
            shutil.copytree(folder, self.root / 'saved' / folder.name)

    def restore(self):
        self.clear()
        for folder in (self.out, self.work):
            shutil.copytree(self.root / 'saved' / folder.name, folder)


def make_job(root) -> Job:
    """A head at 6 mm with its T1w, brain mask, transforms and a coarse template, none of which takes time."""
    root = Path(root)
    protocol = Protocol((6.0, 6.0, 6.0), echo_times=(0.004, 0.009, 0.014))
    data = write_dataset(root / 'data', [Visit('01', None, 0, protocol, 5.0)], spacing=3.0)
    template, mask = load_mni152_template(resolution=6), load_mni152_brain_mask(resolution=6)
    folder = root / 'templateflow' / f'tpl-{SPACE}'
    folder.mkdir(parents=True)
    _save(
        np.asarray(template.dataobj, np.float32), template.affine, folder / f'tpl-{SPACE}_res-01_T1w.nii.gz'
    )
    _save(
        np.asarray(mask.dataobj).astype(np.uint8),
        mask.affine,
        folder / f'tpl-{SPACE}_res-01_desc-brain_mask.nii.gz',
    )
    atlas = root / f'tpl-{SPACE}_atlas-coarse_dseg.nii.gz'
    _save(nuclei_atlas(template.shape, template.affine)[0], template.affine, atlas)
    labels().to_csv(root / f'tpl-{SPACE}_atlas-coarse_dseg.tsv', sep='\t', index=False)
    _write_fmriprep(root / 'fmriprep', data)
    return Job(root)


def _write_fmriprep(root, data):
    anat = root / 'sub-01' / 'anat'
    anat.mkdir(parents=True)
    about = {'Name': 'fMRIPrep', 'BIDSVersion': '1.10.0', 'DatasetType': 'derivative'}
    (root / 'dataset_description.json').write_text(json.dumps(about))
    t1w = nib.load(data / 'sub-01' / 'anat' / 'sub-01_T1w.nii.gz')
    truth = nib.load(data / 'derivatives' / 'truth' / 'sub-01' / 'anat' / 'sub-01_desc-brain_mask.nii.gz')
    mask = resample(np.asarray(truth.dataobj, np.float32), truth.affine, t1w.shape, t1w.affine, []) > 0.5
    _save(mask.astype(np.uint8), t1w.affine, anat / 'sub-01_desc-brain_mask.nii.gz')
    for ends in (('T1w', SPACE), (SPACE, 'T1w')):
        name = 'sub-01_from-{}_to-{}_mode-image_xfm.h5'.format(*ends)
        with h5py.File(anat / name, 'w') as file:
            group = file.create_group('TransformGroup/0')
            group['TransformType'] = [b'AffineTransform_double_3_3']
            group['TransformParameters'] = np.r_[np.eye(3).ravel(), np.zeros(3)]
            group['TransformFixedParameters'] = np.zeros(3)


def _save(data, affine, path):
    nib.Nifti1Image(data, affine).to_filename(path)


def results(out) -> list[Path]:
    """Files of the output that must be the same after any run, relative to it."""
    found = (path.relative_to(out) for path in Path(out).rglob('*') if path.is_file())
    return sorted(path for path in found if path.parts[0] not in RUN_AGAIN)


def differences(out, other) -> list[str]:
    """Names of the files that only one of two outputs has, or that differ in a byte."""
    ours, theirs = set(results(out)), set(results(other))
    differ = {p for p in ours & theirs if not filecmp.cmp(out / p, other / p, shallow=False)}
    return sorted(map(str, (ours ^ theirs) | differ))


def half_written(out) -> list[str]:
    """Files that have their final name and are not whole."""
    found = []
    for path in map(Path(out).joinpath, results(out)):
        content = path.read_bytes()
        try:
            if path.name.startswith('.') and path.name != '.bidsignore':
                continue  # not its final name
            if path.suffix == '.gz':
                assert len(gzip.decompress(content)) > 348
            elif path.suffix == '.json':
                json.loads(content)
            elif path.suffix in ('.html', '.svg'):
                assert content.rstrip().endswith((b'</html>', b'</svg>'))
            elif path.suffix == '.png':
                assert content.endswith(b'IEND\xaeB`\x82')
            else:
                assert content.endswith(b'\n') or path.suffix == '.h5'
        except (AssertionError, OSError, EOFError, ValueError):
            found.append(str(path))
    return found


def steps(job) -> list[Path]:
    """Folders of the steps of a finished run, relative to the graph's, in the order in which they ended."""
    ended = {path.parent: path.stat().st_mtime_ns for path in job.nodes.rglob('result_*.pklz')}
    return [path.relative_to(job.nodes) for path in sorted(ended, key=ended.get)]


MOMENTS = {
    'begun': r'_0x\w+_unfinished\.json',
    'result written': r'result_.*\.pklz',
    'ended': r'_0x[0-9a-f]+\.json',
    'sealed': r'_seal\.json',
}
"""Moments of a step, by the file that appears then."""


def wait_for(process, folder, moment, *, after=0.0):
    """Wait for ``moment`` of the step in ``folder``, and ``after`` (s) more; False where the run ended."""
    stale = _moments(folder, moment)
    while process.poll() is None:
        if _moments(folder, moment) - stale:
            time.sleep(after)
            return True
        time.sleep(0.0005)
    return False


def _moments(folder, moment):
    """(name, date) of the files that tell of a moment."""
    found = set()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if re.fullmatch(MOMENTS[moment], entry.name):
                found.add((entry.name, entry.stat().st_mtime_ns))
    return found


def kill(process):
    """SIGKILL the whole run, as a scheduler or a power cut does; wait until it is gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def workers_of(process) -> list[int]:
    """Processes below the fork server of a run."""
    found = []
    for child in _children(process.pid):
        found += _children(child)
    return found


def _children(pid):
    with suppress(OSError):
        return [int(n) for n in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    return []


def emptied(content):
    del content
    return b''


def cut(content):
    return content[: len(content) // 2]


def zeroed(content):
    return bytes(len(content))


def flipped(content, *, at=0.7, bit=4):
    place = int(at * len(content))
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def spoil(path, how, *, keep_date=False):
    """Spoil a file in place; return a function that mends it, its date too."""
    found, content = path.stat(), path.read_bytes()
    dates = (found.st_atime_ns, found.st_mtime_ns)
    path.write_bytes(how(content))
    if keep_date:
        os.utime(path, ns=dates)

    def mend():
        path.write_bytes(content)
        os.utime(path, ns=dates)

    return mend


def fill(folder):
    """Leave no room on the disk of ``folder``."""
    with (folder / 'filler').open('wb', buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@contextmanager
def small_disk(folder):
    """A disk of its own at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=700m', 'tmpfs', str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


class Lost(Exception):
    """A fault from which the next run does not recover, or that is not said clearly."""


def require(holds, what):
    if not holds:
        raise Lost(what)


def clear_failure(status, said, *words):
    """The message of a run that must fail in words that a user can act on."""
    require(status in (1, 2), f'exit status {status}:\n{said[-3000:]}')
    require('Traceback' not in said and 'unexpected' not in said, f'a traceback:\n{said[-3000:]}')
    lines = [line for line in said.splitlines() if all(word in line for word in words)]
    require(lines, f'none of {words} is said:\n{said[-3000:]}')
    return re.sub(r'/\S*/', '', lines[-1].partition('error: ')[2] or lines[-1].strip())
