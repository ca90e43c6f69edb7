import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bids_qsm.app.options import Options
from bids_qsm.derivatives.files import (
    atomic_write,
    bids_uri,
    output_path,
    remove_partial,
    save_derivative,
    sidecar,
    sidecar_path,
    write_bidsignore,
    write_dataset_description,
    write_json,
)
from bids_qsm.errors import UserError
from tests.skeletons import write_image, write_series, write_t1w

ENTITIES = (('sub', '01'), ('ses', '1'), ('acq', 'x'), ('run', '02'))


@pytest.mark.parametrize(
    ('wanted', 'name'),
    [
        ({'suffix': 'Chimap'}, 'anat/sub-01_ses-1_acq-x_run-02_Chimap.nii.gz'),
        (
            {'suffix': 'Chimap', 'space': 'MNI152Lin', 'desc': 'total'},
            'anat/sub-01_ses-1_acq-x_run-02_space-MNI152Lin_desc-total_Chimap.nii.gz',
        ),
        ({'suffix': 'mask', 'desc': 'brain'}, 'anat/sub-01_ses-1_acq-x_run-02_desc-brain_mask.nii.gz'),
        ({'suffix': 'mask', 'label': 'lesion'}, 'anat/sub-01_ses-1_acq-x_run-02_label-lesion_mask.nii.gz'),
        ({'suffix': 'dseg', 'seg': 'nuclei'}, 'anat/sub-01_ses-1_acq-x_run-02_seg-nuclei_dseg.nii.gz'),
        ({'suffix': 'stats', 'extension': '.tsv'}, 'anat/sub-01_ses-1_acq-x_run-02_stats.tsv'),
        (
            {'suffix': 'fieldmap', 'datatype': 'fmap', 'desc': 'local'},
            'fmap/sub-01_ses-1_acq-x_run-02_desc-local_fieldmap.nii.gz',
        ),
    ],
)
def test_names(wanted, name):
    assert output_path('out', ENTITIES, **wanted) == Path('out/sub-01/ses-1') / name


def test_names_of_transforms_and_figures():
    path = output_path(
        'out', {'sub': '01', 'from': 'GRE', 'to': 'T1w', 'mode': 'image'}, suffix='xfm', extension='.txt'
    )
    assert path == Path('out/sub-01/anat/sub-01_from-GRE_to-T1w_mode-image_xfm.txt')
    path = output_path('out', ENTITIES, suffix='figure', desc='chi', datatype='figures', extension='.svg')
    assert path == Path('out/sub-01/figures/sub-01_ses-1_acq-x_run-02_desc-chi_figure.svg')


@pytest.mark.parametrize(
    'wanted',
    [
        {'suffix': 'chi'},
        {'suffix': 'stats', 'space': 'T1w', 'extension': '.tsv'},
        {'suffix': 'swi', 'datatype': 'func'},
    ],
)
def test_unknown_names_are_errors(wanted):
    with pytest.raises(ValueError, match='no output name fits'):
        output_path('out', ENTITIES, **wanted)


def test_uris_name_the_innermost_dataset():
    roots = {'raw': Path('/d'), 'fmriprep': Path('/d/derivatives/fp'), '': Path('/out')}
    assert bids_uri('/d/derivatives/fp/sub-01/a.nii', roots) == 'bids:fmriprep:sub-01/a.nii'
    assert bids_uri('/out/sub-01/a.nii', roots) == 'bids::sub-01/a.nii'
    with pytest.raises(ValueError, match='lies in none'):
        bids_uri('/elsewhere/a.nii', roots)


def test_sidecar_leaves_out_what_is_not_known():
    content = sidecar('Susceptibility', units='ppm', skull_stripped=False, sources=('bids:raw:a',), Extra=1)
    assert list(content) == ['Description', 'Sources', 'Units', 'SkullStripped', 'SoftwareVersions', 'Extra']
    assert content['Sources'] == ['bids:raw:a']
    assert 'bids_qsm ' in content['SoftwareVersions']
    assert json.loads(json.dumps(content)) == content


def test_atomic_write_leaves_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / 'deep' / 'a.txt'
    atomic_write(path, lambda p: p.write_text('old'))

    def fail(temporary):
        temporary.write_text('half')
        raise RuntimeError('killed')

    with pytest.raises(RuntimeError):
        atomic_write(path, fail)
    assert path.read_text() == 'old'
    assert [p.name for p in path.parent.iterdir()] == ['a.txt']


def test_temporary_name_keeps_the_extension_and_is_hidden(tmp_path):
    seen = []
    atomic_write(tmp_path / 'a.nii.gz', lambda p: (seen.append(p.name), p.write_bytes(b'')))
    assert seen[0].startswith('.')
    assert seen[0].endswith('a.nii.gz')


def test_what_a_killed_run_left_unnamed_is_removed(tmp_path):
    anat = tmp_path / 'sub-01' / 'anat'
    left = [anat / '.0123abcd-sub-01_Chimap.nii.gz', tmp_path / '.89abcdef-sub-01.html']
    left.append(tmp_path / 'logs' / '.89abcdef-sub-01.json')
    kept = [anat / 'sub-01_Chimap.nii.gz', anat / '.hidden', tmp_path / '.bidsignore']
    kept += [
        tmp_path / 'sub-012' / 'anat' / '.0123abcd-sub-012_swi.nii.gz',
        tmp_path / '.89abcdef-sub-012.html',
    ]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_partial(tmp_path, '01')
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_full_disk_is_one_sentence(tmp_path):
    def fail(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(UserError, match=r'a.txt cannot be written \(No space left on device\)'):
        atomic_write(tmp_path / 'a.txt', fail)


def test_save_derivative_copies_or_compresses(tmp_path):
    plain, packed = write_image(tmp_path / 'a.nii'), write_image(tmp_path / 'b.nii.gz')
    first = save_derivative(plain, tmp_path / 'out' / 'x_Chimap.nii.gz', {'Units': 'ppm'})
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()
    assert json.loads(sidecar_path(first).read_text()) == {'Units': 'ppm'}
    again = save_derivative(plain, tmp_path / 'out' / 'y_Chimap.nii.gz')
    assert again.read_bytes() == first.read_bytes()
    assert not sidecar_path(again).exists()
    copy = save_derivative(packed, tmp_path / 'out' / 'z_Chimap.nii.gz')
    assert copy.read_bytes() == packed.read_bytes()
    with pytest.raises(ValueError, match='cannot be written as'):
        save_derivative(plain, tmp_path / 'out' / 'x.tsv')


@pytest.fixture
def options(data, tmp_path):
    write_json(
        data / 'dataset_description.json', {'Name': 'Raw', 'BIDSVersion': '1.10.0', 'DatasetDOI': 'doi:1'}
    )
    given = tmp_path / 'fmriprep'
    given.mkdir()
    return Options(
        bids_dir=data, output_dir=tmp_path / 'out', level='participant', derivatives=(('fmriprep', given),)
    )


def test_description(options, data):
    path = write_dataset_description(options.output_dir, options)
    content = json.loads(path.read_text())
    assert content['DatasetType'] == 'derivative'
    assert content['GeneratedBy'][0]['Name'] == 'bids_qsm'
    assert content['DatasetLinks']['raw'] == data.as_uri()
    assert set(content['DatasetLinks']) == {'raw', 'fmriprep'}
    assert content['SourceDatasets'][0]['DOI'] == 'doi:1'
    assert write_dataset_description(options.output_dir, options) == path


def test_description_of_input_that_begins_with_a_byte_order_mark(options, data, find):
    content = {'Name': 'Raw é', 'BIDSVersion': '1.10.0'}
    (data / 'dataset_description.json').write_text(json.dumps(content), encoding='utf-8-sig')
    write_series(data)
    assert find().dataset_name == 'Raw é'
    path = write_dataset_description(options.output_dir, options)
    assert json.loads(path.read_text())['Name'].endswith('Raw é')


def test_what_all_tasks_write_is_written_once(options, data):
    def write():
        return write_dataset_description(options.output_dir, options), write_bidsignore(options.output_dir)

    before = [path.stat().st_ino for path in write()]
    assert [path.stat().st_ino for path in write()] == before
    write_json(data / 'dataset_description.json', {'Name': 'Other', 'BIDSVersion': '1.10.0'})
    (options.output_dir / '.bidsignore').write_bytes(b'\xff')
    description, ignore = write()
    assert 'Other' in description.read_text()
    assert 'slurm' in ignore.read_text()


@pytest.mark.parametrize(
    'text', ['{"Name": "other", "GeneratedBy": [{"Name": "fMRIPrep"}]}', '{}', 'x', '[]']
)
def test_output_of_another_pipeline_is_left_alone(options, text):
    options.output_dir.mkdir()
    path = options.output_dir / 'dataset_description.json'
    path.write_text(text)
    with pytest.raises(UserError, match='holds another dataset'):
        write_dataset_description(options.output_dir, options)
    assert path.read_text() == text


def test_outputs_pass_the_validator(options, data):
    pytest.importorskip('bids_validator_deno')
    sources = tuple(bids_uri(p, {'raw': data}) for p in write_series(data))
    write_t1w(data)
    out = options.output_dir
    write_dataset_description(out, options)
    write_bidsignore(out)
    (out / 'README.md').write_text('Susceptibility maps.\n')
    image = write_image(out.parent / 'image.nii.gz')
    labels = write_image(out.parent / 'labels.nii.gz', data=np.ones((8, 9, 7), np.uint8))
    table = out.parent / 'table.tsv'
    table.write_text('index\tname\n1\tRN\n')
    for entities in (ENTITIES, (('sub', '02'),), (*ENTITIES, ('inv', '1'))):
        maps = sidecar('A map', sources=sources, units='ppm', skull_stripped=True, reference='CSF')
        for suffix in ('Chimap', 'R2starmap', 'T2starmap', 'S0map', 'swi', 'minIP'):
            save_derivative(image, output_path(out, entities, suffix=suffix), maps)
            standard = output_path(out, entities, suffix=suffix, space='MNI152NLin2009aSym')
            save_derivative(image, standard, maps)
        mask = sidecar('A mask', sources=sources, mask_type='Brain')
        save_derivative(labels, output_path(out, entities, suffix='mask', desc='brain'), mask)
        preproc = sidecar('T1w', sources=sources, skull_stripped=False)
        save_derivative(image, output_path(out, entities, suffix='T1w', desc='preproc'), preproc)
        save_derivative(labels, output_path(out, entities, suffix='dseg', seg='nuclei'), sidecar('Labels'))
        save_derivative(table, output_path(out, entities, suffix='dseg', seg='nuclei', extension='.tsv'))
        save_derivative(table, output_path(out, entities, suffix='stats', seg='nuclei', extension='.tsv'), {})
        for suffix in ('fieldmap', 'magnitude'):
            extra = {'Units': 'ppm'} if suffix == 'fieldmap' else {}
            path = output_path(out, entities, suffix=suffix, desc='local', datatype='fmap')
            save_derivative(image, path, sidecar('Field', sources=sources, skull_stripped=True, **extra))
        xfm = {**dict(entities), 'from': 'GRE', 'to': 'T1w', 'mode': 'image'}
        save_derivative(table, output_path(out, xfm, suffix='xfm', extension='.txt').with_suffix('.tsv'))
        figure = output_path(out, entities, suffix='figure', desc='chi', datatype='figures', extension='.svg')
        atomic_write(figure, lambda p: p.write_text('<svg/>'))
    for name in ('sub-01.html', 'logs/sub-01.json', 'work/a/b.nii.gz', 'group_regions.tsv', 'group.html'):
        atomic_write(out / name, lambda p: p.write_text('{}'))
    tool = Path(sys.executable).parent / 'bids-validator-deno'
    ran = subprocess.run([tool, out, '--format', 'json'], capture_output=True, text=True, check=False)
    issues = json.loads(ran.stdout)['issues']['issues']
    errors = [(i['code'], i.get('subCode'), i.get('location')) for i in issues if i['severity'] == 'error']
    assert errors == []
    assert ran.returncode == 0
