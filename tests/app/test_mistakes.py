"""What users type wrong, or give for a dataset: one sentence says what to do."""

import json
import shlex
import shutil

import pytest

from bids_qsm.app import cli
from tests.skeletons import write_image, write_series, write_t1w

MISTAKES = {
    # order and names
    'data out': 'the level is missing; give: bids_qsm bids_dir output_dir {participant,group}.',
    'data out particpant': "the level is 'particpant'; it must be participant or group. Did you mean",
    'participant data out': 'the level comes last: bids_qsm data out participant.',
    'data participant out': 'the level comes last: bids_qsm data out participant.',
    'out data participant': 'out is no dataset, but data is, which comes first: bids_qsm data out',
    'made data participant': 'made is an output, but data is a dataset, which comes first: bids_qsm ',
    'nowhere made participant': 'nowhere is not a folder; give the root of a BIDS dataset. See ',
    'nowhere out participant': 'nowhere is not a folder; give the root of a BIDS dataset. See ',
    'afile out participant': 'afile is not a folder; give the root of a BIDS dataset. See ',
    'data': 'Give: bids_qsm check data, or bids_qsm data OUT participant.',
    'chek data': "there is no folder and no command 'chek'. Did you mean check?",
    'watch out': 'Did you mean bids_qsm status OUT --watch?',
    'help': 'Did you mean bids_qsm --help?',
    'process data': 'The commands are: check, completion, demo,',
    'check data participant': "bids_qsm check takes no level; leave 'participant' out. bids_qsm check --help",
    'slurm data out group --cpus 2': "bids_qsm slurm takes no level; leave 'group' out.",
    'slurm data out --mem 8G participant': "bids_qsm slurm takes no level; leave 'participant' out.",
    'check data --participant-label group': "has no participant 'group'; it has: 01.",
    'data participant': 'the output folder is missing; give: bids_qsm data OUT participant.',
    'data --participant-label 01 out participant': '--participant-label takes all words that follow it; put',
    '--session-label 01 data out group': 'bids_qsm bids_dir output_dir group --session-label 01.',
    '-d ./fmriprep ./data ./out': 'bids_dir output_dir participant --derivatives ./fmriprep.',
    # what is no dataset
    'empty out participant': 'Give the folder that holds sub-*, or make one from DICOM files by bids_qsm',
    'dicom out participant': 'It holds DICOM files: "bids_qsm import ',
    'check dicom': 'NEW_FOLDER" makes a dataset of them.',
    'images out participant': 'It holds NIfTI images, such as gre.nii.gz: put them into folders',
    'bare out participant': 'Its folders look like one: write {"Name": "...", "BIDSVersion": "1.10.0"}',
    'data/sub-01 out participant': 'data has one: give that.',
    '. out participant': '4 folders have one: give one of ',
    'inside out participant': 'inside/raw has one: give that.',
    'made/sub-01 out participant': 'It holds NIfTI images, such as sub-01_',
    'nobody out participant': 'nobody holds no participant: no folder is named sub-<label>.',
    'flat out participant': 'is not read there; move it and its fellows to sub-01/anat.',
    'silent out participant': 'has no phase: no part-phase (or part-imag) file goes with it.',
    't1w out participant': 'has files named *_part-mag_MEGRE and *_part-phase_MEGRE.',
    # labels and places
    'data out participant --participant-label 1': "has no participant '1'; it has: 01.",
    'data out participant --participant-label sub-02': "has no participant '02'; it has: 01.",
    'data out participant --session-label 1': "has no session '1'; its sessions: none.",
    'data data participant': 'lies in the input dataset; choose one outside it, or derivatives/NAME.',
    'data afile participant': 'cannot be made: ',
    'data out group': 'has no tables of regions',
    'status data': 'has no log of a run (logs/*/events.jsonl); name the output folder of a run.',
    'status nowhere': 'there is no folder nowhere; name the output folder of a run.',
    'data out participant -d fmriprep=/nowhere': '/nowhere is not a folder.',
    'data out participant --config no.toml': 'no.toml cannot be read: No such file or directory.',
    'data out participant --bids-filter-file afile': 'the BIDS filter file ',
    # options and their values
    'data out --level participant': 'Give it without a flag: bids_qsm bids_dir output_dir {part',
    'data out participant --invertion tv': 'Did you mean --inversion?',
    'data out participant --inversion tvv': 'Did you mean tv?',
    'data out participant --inversion tv:lambda=3': "tv has no parameter 'lambda'; its parameters are: ",
    'data out participant --candidats': 'Did you mean --candidates?',
    'data out participant --mem lots': "'lots' is no size; write 8, 8G or 8000M. bids_qsm --help tells more.",
    'data out participant --nprocs 0': '--nprocs is 0; it must be at least 1.',
    'data out participant --voxel-size 0': 'it must be one size in mm or three, from 0.1 to 20.',
    'data out participant --echo-window 90,99': 'holds none of its echo times (4, 8, 12 ms); widen it.',
    'data out participant --mask no.nii.gz': 'is not there; add it, or choose another with --mask.',
    'data out participant --atlas AAL': "No atlas AAL: give 'nuclei', 'CIT168' or the path of a dseg",
    'data out participant --model "chi ~ age"': '--model goes with the level group, not with participant.',
    'data out participant --array-task 5/2': 'it must be I/N, the task and their number, such as 3/12.',
    'check data out': 'give one dataset: bids_qsm check bids_dir [options].',
    'completion tcsh': "invalid choice: 'tcsh' (choose from 'bash', 'zsh', 'fish').",
    'slurm data out --nprocs 4': '--nprocs does not go with bids_qsm slurm; give --cpus.',
    'demo data': 'data is there already; delete it or choose another folder.',
}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with a dataset, and with what may be taken for one."""
    root = tmp_path_factory.mktemp('place')
    for name in ('data', 'bare', 'silent', 't1w', 'nobody', 'flat'):
        (root / name).mkdir()
        if name != 'bare':
            (root / name / 'dataset_description.json').write_text('{"Name": "one", "BIDSVersion": "1.9.0"}')
    for name in ('data', 'bare', 'flat', 'inside/raw', 'inside/a', 'made'):
        write_series(root / name)
    for name, kind in (('inside/raw', 'raw'), ('inside/a', 'derivative'), ('made', 'derivative')):
        text = json.dumps({'Name': 'one', 'BIDSVersion': '1.9.0', 'DatasetType': kind})
        (root / name / 'dataset_description.json').write_text(text)
    (root / 'made/logs').mkdir()
    (root / 'inside/0').symlink_to('0')  # what nobody can read
    for path in [*(root / 'flat/sub-01/anat').iterdir()]:
        path.rename(root / 'flat/sub-01' / path.name)
    write_series(root / 'silent', parts=('mag',))
    write_t1w(root / 't1w')
    write_image(root / 'images/gre.nii.gz', (4, 4, 4))
    for name in ('empty', 'out', 'dicom/1'):
        (root / name).mkdir(parents=True)
    (root / 'dicom/1/IM0001').write_bytes(bytes(128) + b'DICM')
    (root / 'afile').touch()
    return root


@pytest.mark.parametrize('words', MISTAKES)
def test_a_mistake_gets_one_sentence_on_what_to_do(words, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(cli, 'set_threads', lambda _: None)
    try:
        status = cli.main([*shlex.split(words), *['--skip-bids-validation'] * ('participant' in words)])
    except SystemExit as ended:
        status = ended.code
    shutil.rmtree(place / 'out')
    (place / 'out').mkdir()
    said = capsys.readouterr()
    assert status == 2
    assert said.out == ''
    (line,) = said.err.splitlines()
    assert line.startswith('bids_qsm')
    assert 'error: ' in line
    assert MISTAKES[words] in line
