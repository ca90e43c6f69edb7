"""Break a run in the ways in which runs break, run it again, and compare with one that nobody disturbed.

python benchmarks/faults.py [--only WORD ...] [--folder DIR]

Each case disturbs a small job, looks at what the disturbed run says and leaves behind, mends the cause, runs
the same command again, and compares every file of the output. Cases that need root (a full disk) or faketime
are left out where there is none.
"""

import argparse
import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from disturb import (
    MOMENTS,
    SECONDS,
    Lost,
    clear_failure,
    cut,
    differences,
    emptied,
    fill,
    flipped,
    half_written,
    kill,
    make_job,
    require,
    results,
    small_disk,
    spoil,
    steps,
    wait_for,
    workers_of,
    zeroed,
)

SLOW = ('rigid', 'unwrap_phase', 'invert', 'plot_chi')
"""Steps that last, in which workers are killed."""
ROOT = os.getuid() == 0
UNPRIVILEGED = ('setpriv', '--bounding-set', '-dac_override,-dac_read_search') if ROOT else ()
"""Before a command: root, too, needs the rights that files give."""


# -- killed ---------------------------------------------------------------------------------------------


def killed_at_each_step(job, order, *, moments=tuple(MOMENTS)):
    """SIGKILL of the whole run at one step after the other, each run going on where the last was killed."""
    n = 0
    for number, step in enumerate(order):
        moment = moments[number % len(moments)]
        if step.name.startswith('save') and moment == 'sealed':
            moment = 'ended'  # what writes the output runs each time, and has no seal
        if (job.nodes / step / '_seal.json').exists():  # done as an earlier run went on beyond it
            shutil.rmtree(job.nodes / step)
        process = job.start()
        n += wait_for(process, job.nodes / step, moment, after=0.02 * (number % 3))
        kill(process)
        require(not half_written(job.out), f'{half_written(job.out)} after {step} {moment}')
    return f'{n} kills in one job'


def killed_at_any_time(job, order, *, kills=12):
    """SIGKILL of the whole run after random times."""
    del order
    rng = random.Random(0)
    for _ in range(kills):
        process = job.start()
        time.sleep(rng.uniform(0.5, 25))
        kill(process)
        require(not half_written(job.out), str(half_written(job.out)))
    return f'{kills} kills in one job'


def killed_while_saving(job, order):
    """SIGKILL of the whole run some milliseconds into the steps that write the output."""
    n = 0
    for step in [step for step in order if step.name.startswith('save')]:
        for after in (0.002, 0.02, 0.05):
            process = job.start()
            n += wait_for(process, job.nodes / step, 'begun', after=after)
            kill(process)
            require(not half_written(job.out), f'{half_written(job.out)} after {step}')
    return f'{n} kills in one job'


def main_killed(job, order):
    """SIGKILL of the main process alone, and the next run at once, while its workers are still there."""
    for step in [step for step in order if step.name in SLOW]:
        process = job.start()
        wait_for(process, job.nodes / step, 'begun', after=0.05)
        process.kill()
        process.wait()
    return f'{len(SLOW)} kills in one job'


def worker_killed(job, order):
    """SIGKILL of the workers in steps that last, as the kernel does when memory runs out."""
    said_of = []
    for step in [step for step in order if step.name in SLOW]:
        process = job.start()
        wait_for(process, job.nodes / step, 'begun', after=0.02)
        for pid in workers_of(process):
            os.kill(pid, signal.SIGKILL)
        said = process.communicate(timeout=SECONDS)[0]
        said_of.append(clear_failure(process.returncode, said, 'SIGKILL'))
    return said_of[-1]


# -- disks ----------------------------------------------------------------------------------------------


def disk_full(job, order, *, which):
    """A disk that fills up while one step after the other runs; then there is room."""
    folder = getattr(job, which)
    with small_disk(folder):
        for step, moment in zip(order[1 :: max(1, len(order) // 4)], MOMENTS, strict=False):
            # an earlier run may have got through this step
            shutil.rmtree(job.nodes / step, ignore_errors=True)
            shutil.rmtree(job.out / 'sub-01', ignore_errors=True)
            process = job.start()
            wait_for(process, job.nodes / step, moment)
            # held meanwhile, as the last steps take less time than filling
            os.killpg(process.pid, signal.SIGSTOP)
            fill(folder)
            os.killpg(process.pid, signal.SIGCONT)
            said = process.communicate(timeout=SECONDS)[0]
            (folder / 'filler').unlink()
            message = clear_failure(process.returncode, said, 'No space left')
            require(not half_written(job.out), str(half_written(job.out)))
        finish(job)
        check(job)
        shutil.copytree(folder, job.root / 'kept')
    shutil.rmtree(folder)
    (job.root / 'kept').rename(folder)
    return message


# -- files ----------------------------------------------------------------------------------------------


def input_spoiled(job, order, *, name, how, words, root='anat'):
    """A spoiled input file; then it is mended, with its date."""
    del order
    mend = spoil(getattr(job, root) / name, how)
    message = clear_failure(*job.run(), *words)
    require(not half_written(job.out), str(half_written(job.out)))
    mend()
    return message


def input_silently_flipped(job, order):
    """A bit of an uncompressed image flipped under its old date, which nothing tells; mended likewise."""
    del order
    path = job.anat / 'sub-01_echo-2_part-phase_MEGRE.nii.gz'
    packed, plain = path.read_bytes(), path.with_suffix('')
    plain.write_bytes(gzip.decompress(packed))
    path.unlink()
    finish(job)
    shutil.rmtree(job.out)
    shutil.rmtree(job.work)
    mend = spoil(plain, lambda content: flipped(content, at=0.5, bit=7), keep_date=True)
    finish(job)
    mend()
    finish(job)
    expected = job.root / 'expected'
    shutil.copytree(job.out, expected)
    shutil.rmtree(job.out)
    shutil.rmtree(job.work)
    finish(job)
    found = differences(job.out, expected)
    shutil.rmtree(expected)
    require(not found, f'stale after mending: {found[:5]}')
    plain.unlink()
    path.write_bytes(packed)
    return 'no message is possible; mended, it is seen by its change time'


def work_spoiled(job, order, *, how, keep_date=False):
    """Files of every kind in the working folder spoiled at once."""
    job.restore()
    return f'{spoil_work(job, order, how, keep_date=keep_date)} files'


def spoil_work(job, order, how, *, keep_date=False):
    """Spoil files of every kind in the working folder, each in a step of its own; return how many."""
    patterns = (
        'result_*.pklz',
        '_0x*.json',
        '_node.pklz',
        '_seal.json',
        '*.nii',
        '*.nii.gz',
        '*.tsv',
        '*.png',
    )
    n = 0
    for number, pattern in enumerate(patterns):
        found = sorted(p for step in order[number::3] for p in (job.nodes / step).glob(pattern))
        for path in found[:: max(1, len(found) // 3)]:
            n += path.exists()
            path.unlink() if how is None else spoil(path, how, keep_date=keep_date)
    for path in sorted((job.work / 'templates').rglob('*.*')):
        if path.is_file():
            n += 1
            path.unlink() if how is None else spoil(path, how, keep_date=keep_date)
    return n


def output_spoiled(job, order, *, how):
    """Every file of the output spoiled under its old date."""
    del order
    job.restore()
    return f'{spoil_output(job, how)} files'


def spoil_output(job, how):
    """Spoil every file of the output under its date, or remove it; return how many."""
    # without the description of the dataset the folder is not known as ours
    found = [path for path in results(job.out) if path.name != 'dataset_description.json']
    for path in found:
        (job.out / path).unlink() if how is None else spoil(job.out / path, how, keep_date=True)
    return len(found)


# -- rights, clocks, others -----------------------------------------------------------------------------


def no_permission(job, order, *, of, mode, words):
    """A file or folder that the user may not read or write; then they may."""
    del order
    path = job.root / of
    if path in (job.out, job.work):
        path.mkdir()
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        return clear_failure(*job.run(prefix=UNPRIVILEGED), *words)
    finally:
        path.chmod(before)


def clock_jumps(job, order, *, jumps):
    """A clock that jumps (seconds) while steps run; a run must neither wait for it nor believe it."""
    library = next(Path('/usr/lib').glob('*/faketime/libfaketime.so.1'))
    clock = job.root / 'clock'
    clock.write_text('+0\n')
    env = {
        'LD_PRELOAD': str(library),
        'FAKETIME_TIMESTAMP_FILE': str(clock),
        'FAKETIME_NO_CACHE': '1',
        'DONT_FAKE_MONOTONIC': '1',
    }
    process = job.start(env=env)
    for jump, step in zip(jumps, order[2 :: len(order) // len(jumps)], strict=False):
        wait_for(process, job.nodes / step, 'begun')
        clock.write_text(f'{jump:+d}\n')
    started = time.monotonic()
    said = process.communicate(timeout=SECONDS)[0]
    require(process.returncode == 0, said[-2000:])
    return f'ended in {time.monotonic() - started:.0f} s'


def dates_wrong(job, order, *, years):
    """Inputs and earlier results with dates in the future or long ago."""
    del order
    job.restore()
    for folder in (job.data, job.work):
        for path in folder.rglob('*'):
            moment = path.stat().st_mtime + years * 3.15e7
            os.utime(path, (moment, moment))
    return ''


def two_at_once(job, order):
    """The same command twice at once: the second says so, and the first is not disturbed."""
    first = job.start()
    wait_for(first, job.nodes / order[4], 'begun')
    message = clear_failure(*job.run(), 'another process')
    said = first.communicate(timeout=SECONDS)[0]
    require(first.returncode == 0, said[-2000:])
    return message


def two_work_folders(job, order):
    """Two runs at once into one output, each with its own working folder: the second says so."""
    first = job.start()
    wait_for(first, job.nodes / order[4], 'begun')
    other = job.root / 'work2'
    message = clear_failure(*job.run('-w', str(other)), 'another process')
    said = first.communicate(timeout=SECONDS)[0]
    require(first.returncode == 0, said[-2000:])
    shutil.rmtree(other)
    return message


def stale_lock(job, order):
    """The lock that a killed run left behind."""
    process = job.start()
    wait_for(process, job.nodes / order[3], 'begun')
    kill(process)
    locks = list(job.work.glob('.lock*'))
    require(locks, 'there is no lock')
    return f'{len(locks)} left'


# -- the table ------------------------------------------------------------------------------------------


def finish(job):
    status, said = job.run()
    require(status == 0, f'the next run fails with {status}:\n{said[-3000:]}')


def check(job):
    found = differences(job.out, job.root / 'saved' / 'out')
    require(not found, f'{len(found)} files differ: {", ".join(found[:5])}')
    left = [str(p.relative_to(job.out)) for p in job.out.rglob('.*') if p.is_relative_to(job.out)]
    require(left == ['.bidsignore'], f'left behind: {left}')


def cases():
    """(class, what happens, function, its parameters) in the order of the table."""
    phase, sidecar = 'sub-01_echo-2_part-phase_MEGRE.nii.gz', 'sub-01_echo-2_part-phase_MEGRE.json'
    spoilt = {
        'emptied': emptied,
        'cut in half': cut,
        'zeroed': zeroed,
        'a bit flipped': flipped,
        'removed': None,
    }
    yield 'killed', 'SIGKILL at each step in turn', killed_at_each_step, {}
    yield 'killed', 'SIGKILL while output is written', killed_while_saving, {}
    yield 'killed', 'SIGKILL at random times', killed_at_any_time, {}
    yield 'killed', 'main process alone, run again at once', main_killed, {}
    yield 'killed', 'workers', worker_killed, {}
    for what, how in spoilt.items():
        yield 'working folder', f'files of every kind {what}', work_spoiled, {'how': how}
    yield 'working folder', 'emptied under their old date', work_spoiled, {'how': emptied, 'keep_date': True}
    for what, how in spoilt.items():
        yield 'output', f'every file {what}', output_spoiled, {'how': how}
    for what, how in (('cut in half', cut), ('a bit flipped', flipped), ('emptied', emptied)):
        for name in (phase, 'sub-01_T1w.nii.gz'):
            yield 'input', f'{name} {what}', input_spoiled, {'name': name, 'how': how, 'words': (name,)}
    for at in (0.0, 0.001, 0.3, 0.99999):

        def flip(content, at=at):
            return flipped(content, at=at)

        yield (
            'input',
            f'{phase}, bit at {at:.3%}',
            input_spoiled,
            {'name': phase, 'how': flip, 'words': (phase,)},
        )
    for what, how in (('emptied', emptied), ('cut in half', cut), ('not UTF-8', lambda c: b'\xff\xfe' + c)):
        yield 'input', f'{sidecar} {what}', input_spoiled, {'name': sidecar, 'how': how, 'words': (sidecar,)}
    for name in ('fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz',
                 'fmriprep/sub-01/anat/sub-01_from-T1w_to-Tiny_mode-image_xfm.h5',
                 'templateflow/tpl-Tiny/tpl-Tiny_res-01_T1w.nii.gz',
                 'tpl-Tiny_atlas-coarse_dseg.nii.gz'):  # fmt: skip
        word = Path(name).name
        yield 'input', f'{word} cut in half', input_spoiled, {
            'name': name, 'how': cut, 'words': (word,), 'root': 'root'}  # fmt: skip
    yield 'input', 'uncompressed image, bit flipped under its date', input_silently_flipped, {}
    if ROOT:
        yield 'disk full', 'output', disk_full, {'which': 'out'}
        yield 'disk full', 'working folder', disk_full, {'which': 'work'}
    for of, mode, words in (
        ('out', 0o555, ('out', 'ermission')),
        ('work', 0o555, ('work', 'ermission')),
        (f'data/sub-01/anat/{phase}', 0o000, (phase,)),
        (f'data/sub-01/anat/{sidecar}', 0o000, (sidecar,)),
        ('data/sub-01/anat', 0o000, ('sub-01',)),
        ('fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz', 0o000, ('brain_mask',)),
    ):
        yield 'no permission', of, no_permission, {'of': of, 'mode': mode, 'words': words}
    if any(Path('/usr/lib').glob('*/faketime/libfaketime.so.1')):
        day = 86400
        yield 'clock', 'jumps by days, forth and back', clock_jumps, {'jumps': (3 * day, -2 * day, 0, -day)}
        yield 'clock', 'set back by an hour', clock_jumps, {'jumps': (-3600,)}
    yield 'clock', 'all files ten years ahead', dates_wrong, {'years': 10}
    yield 'clock', 'all files ten years back', dates_wrong, {'years': -10}
    yield 'two runs', 'at once in one working folder', two_at_once, {}
    yield 'two runs', 'at once into one output', two_work_folders, {}
    yield 'two runs', 'locks of a killed run', stale_lock, {}


def run_case(job, order, function, settings):
    """What the disturbed run said; Lost where the fault was not survived."""
    job.clear()
    note = function(job, order, **settings)
    finish(job)
    check(job)
    return note


def undisturbed(root):
    """A job, and its steps in order, whose output of an undisturbed run is kept."""
    job = make_job(root)
    finish(job)
    job.save()
    return job, steps(job)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--only', nargs='+', default=[''], help='words that the cases to run hold')
    parser.add_argument('--folder', type=Path, help='where to keep the job (a temporary folder)')
    given = parser.parse_args(argv)
    chosen = [case for case in cases() if any(word in f'{case[0]}: {case[1]}' for word in given.only)]
    lost = 0
    with tempfile.TemporaryDirectory() as temporary:
        job, order = undisturbed(given.folder or Path(temporary) / 'job')
        print('class\tfault\tresult\tseconds\tnote', flush=True)
        for kind, what, function, settings in chosen:
            started, result = time.monotonic(), 'survived'
            try:
                note = run_case(job, order, function, settings)
            except (Lost, subprocess.TimeoutExpired) as error:
                lost, result, note = lost + 1, 'LOST', str(error)
            seconds = time.monotonic() - started
            print(kind, what, result, f'{seconds:.0f}', note, sep='\t', flush=True)
    print(f'{len(chosen)} faults, {len(chosen) - lost} survived, {lost} lost')
    return int(lost > 0)


if __name__ == '__main__':
    sys.exit(main())
