"""Build the image and run it as strictly as it is promised to run; print what was found.

python benchmarks/container.py FOLDER [--build] [--image bids_qsm] [--data DATASET] [--templates NAME ...]

It needs a Docker engine ($DOCKER_HOST) and root, as output folders are given to other users. FOLDER holds the
demo dataset (simulated in the image, or --data) and the output of each run. "compiled" counts kernels that a
run compiled, which should be none; "loaded" those that it took from the image.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

STRICT = ('--network', 'none', '--read-only', '--tmpfs', '/tmp')


def docker(*arguments):
    """Run the engine's client; return the finished process, output and errors in one text."""
    command = ['docker', *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def build(image, templates):
    """Build the image; return seconds."""
    more = ['--build-arg', f'TEMPLATES={" ".join(templates)}'] if templates else []
    start = time.monotonic()
    ran = docker('build', '--network', 'host', '-t', image, *more, Path(__file__).parents[1])
    if ran.returncode:
        sys.exit(ran.stdout[-3000:])
    return time.monotonic() - start


def describe(image):
    """Print size, user and labels of the image."""
    (found,) = json.loads(docker('image', 'inspect', image).stdout)
    print(f'size {found["Size"] / 1e9:.2f} GB, user {found["Config"]["User"]}')
    for name, text in sorted(found['Config']['Labels'].items()):
        print(f'  {name} = {text}')


def owned(folder, user):
    """A new folder that belongs to ``user``."""
    folder.mkdir(parents=True)
    os.chown(folder, user, user)
    return folder


def run(title, image, options, arguments, log):
    """Run the image, keep its output in ``log`` and print a row of the table."""
    start = time.monotonic()
    ran = docker(
        'run', '--rm', '-e', 'NUMBA_DEBUG_CACHE=1', '-e', 'PYTHONUNBUFFERED=1', *options, image, *arguments
    )
    log.write_text(ran.stdout)
    saved, loaded = (ran.stdout.count(f'[cache] data {what}') for what in ('saved', 'loaded'))
    print(f'{title:<44} {ran.returncode:>4} {time.monotonic() - start:>7.0f} {saved:>8} {loaded:>6}')
    return ran


def main():
    """Do it."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--build', action='store_true')
    parser.add_argument('--image', default='bids_qsm')
    parser.add_argument('--data', type=Path)
    parser.add_argument('--templates', nargs='*', default=())
    given = parser.parse_args()
    folder, image = given.folder.resolve(), given.image
    folder.mkdir(parents=True, exist_ok=True)
    if given.build:
        print(f'built in {build(image, given.templates):.0f} s')
    describe(image)
    print(f'{"run":<44} exit seconds compiled loaded')
    data = given.data and given.data.resolve()
    if data is None:
        home = owned(folder / 'demo', 1000)
        run(
            'demo, as 1000',
            image,
            (*STRICT, '-v', f'{home}:/demo'),
            ['demo', '/demo/data'],
            folder / 'demo.log',
        )
        data = home / 'data'
    level = ['/data', '/out', 'participant']
    for title, user, options, first in (
        ('participant, read-only, offline, as 4321', 4321, (*STRICT, '-u', '4321:4321'), ()),
        ('the same without HOME and PATH', 4322, (*STRICT, '-u', '4322:4322', '--entrypoint', '/usr/bin/env'),
         ('-i', 'NUMBA_DEBUG_CACHE=1', 'PYTHONUNBUFFERED=1', '/opt/bids_qsm/bin/bids_qsm')),
    ):  # fmt: skip
        out = owned(folder / f'out-{user}', user)
        mounts = ('-v', f'{data}:/data:ro', '-v', f'{out}:/out')
        run(title, image, (*options, *mounts), [*first, *level], folder / f'{user}.log')
        if first == ():
            group = [*level[:2], 'group']
            run('group, the same', image, (*options, *mounts), group, folder / f'{user}-group.log')
    for title, options, words in (
        ('no folder for temporary files', ('--read-only',), ['--version']),
        ('output of another user', ('-v', f'{data}:/data:ro', '-v', f'{folder}:/out'), level),
    ):
        ran = run(title, image, options, words, folder / 'refused.log')
        print(f'  {ran.stdout.strip().splitlines()[-1]}')


if __name__ == '__main__':
    main()
