"""Malformed BIDS datasets: a sound one of two subjects, and what hypothesis may spoil in it.

Each function of `KINDS` takes hypothesis' ``draw`` and the folder that holds ``data`` and ``derivatives``. It
spoils subject 01 alone; but `dataset` may spoil what both subjects share, `harmless` nothing that matters.
"""

import gzip
import json
import os
import shutil
import struct

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

from tests.nasty import JUNK, KEYS, VALUES, WORDS
from tests.skeletons import write_dataset, write_image, write_json

SHAPE = (13, 12, 10)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])
AFFINE[:3, 3] = (-12, -11, -11)
ECHO_TIMES = (0.004, 0.009)
SPACE = 'MNI152NLin2009aSym'


def write_sound(root):
    """The sound dataset: ``root/data``, and ``root/derivatives`` as fMRIPrep and others leave them."""
    data, derivatives = write_dataset(root / 'data'), root / 'derivatives'
    (data / 'participants.tsv').write_text('participant_id\tage\nsub-01\t40\nsub-02\t50\n')
    for sub in ('01', '02'):
        _write_scan(data / f'sub-{sub}' / 'anat', f'sub-{sub}')
    anat = data / 'sub-01' / 'anat'
    for suffix in ('T1w', 'FLAIR'):
        write_image(anat / f'sub-01_{suffix}.nii.gz', SHAPE, AFFINE)
        write_json(anat / f'sub-01_{suffix}.json', {'MagneticFieldStrength': 3})
    write_json(derivatives / 'dataset_description.json', {'Name': 'Others', 'BIDSVersion': '1.10.0'})
    theirs = derivatives / 'sub-01' / 'anat'
    ball = _ball() < 0.6
    for name in ('desc-brain_mask', 'space-T1w_label-lesion_mask', 'space-FLAIR_label-lesion_mask'):
        write_image(theirs / f'sub-01_{name}.nii.gz', data=ball.astype(np.uint8), affine=AFFINE)
    write_image(theirs / 'sub-01_desc-preproc_T1w.nii.gz', SHAPE, AFFINE)
    write_image(theirs / 'sub-01_seg-hand_dseg.nii.gz', data=ball.astype(np.int16), affine=AFFINE)
    (theirs / 'sub-01_seg-hand_dseg.tsv').write_text('index\tname\n1\tBall\n')
    for a, b in (('T1w', SPACE), (SPACE, 'T1w')):
        (theirs / f'sub-01_from-{a}_to-{b}_mode-image_xfm.h5').write_bytes(b'\x89HDF\r\n\x1a\n')
    return root


def _ball():
    """Distance from the middle, 1 at the faces."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing='ij')
    return np.sqrt(sum(axis**2 for axis in axes))


def _write_scan(folder, stem):
    rng = np.random.default_rng(0)
    distance, x = _ball(), np.linspace(-1, 1, SHAPE[0])[:, None, None]
    for n, time in enumerate(ECHO_TIMES, 1):
        phase = 2 * np.pi * (150 * x + 90 * distance) * time + 0.05 * rng.normal(size=SHAPE)
        phase = np.where(distance < 0.9, phase, rng.uniform(-np.pi, np.pi, SHAPE))
        stored = np.floor((np.mod(phase + np.pi, 2 * np.pi) / (2 * np.pi)) * 4095.99).astype(np.int16)
        magnitude = np.where(distance < 0.9, 800 * np.exp(-30 * time), 0) + 10 * rng.random(SHAPE)
        for part, values, extension in (
            ('mag', magnitude.astype(np.float32), '.nii'),
            ('phase', stored, '.nii.gz'),
        ):
            base = folder / f'{stem}_echo-{n}_part-{part}_MEGRE'
            write_image(base.with_name(base.name + extension), data=values, affine=AFFINE)
            write_json(
                base.with_name(base.name + '.json'),
                {
                    'EchoTime': time,
                    'MagneticFieldStrength': 3,
                    'RepetitionTime': 0.03,
                    'FlipAngle': 12,
                    'Manufacturer': 'Siemens',
                },
            )


def _files(root, pattern):
    return sorted(root.glob(pattern))


def _scan(draw, root, extension='.nii*'):
    return draw(st.sampled_from(_files(root, f'data/sub-01/anat/*MEGRE{extension}')))


def names(draw, root):
    """An entity, a suffix, an extension or a folder with a name that nobody expects."""
    path = _scan(draw, root)
    stem, _, extension = path.name.partition('.')
    words = stem.split('_')
    what = draw(st.sampled_from(['value', 'key', 'word', 'more', 'suffix', 'extension', 'order', 'whole']))
    n = draw(st.integers(0, max(len(words) - 2, 0)))
    new = draw(WORDS)
    if what == 'value':
        words[n] = words[n].partition('-')[0] + '-' + new
    elif what == 'key':
        words[n] = new + '-' + words[n].partition('-')[2]
    elif what == 'word':
        words[n] = new
    elif what == 'more':
        words.insert(n + 1, draw(st.sampled_from(['acq', 'run', 'ce', 'x', 'echo'])) + '-' + new)
    elif what == 'suffix':
        words[-1] = draw(st.one_of(WORDS, st.sampled_from(['T2starw', 'GRE', 'T1w', 'megre', 'bold'])))
    elif what == 'extension':
        extension = draw(st.one_of(WORDS, st.sampled_from(['nii.gz.nii', 'NII', 'nii.bz2', 'mgz', 'img'])))
    elif what == 'order':
        words = draw(st.permutations(words))
    else:
        words, extension = [new], 'nii.gz'
    target = path.with_name('_'.join(words) + ('.' + extension if extension else ''))
    _move(path, target, copy=draw(st.booleans()))


def _move(path, target, *, copy):
    """Rename or copy where the file system has room for the name; a name too long is cut."""
    name = os.fsencode(target.name)[:250] or b'x'
    target = target.with_name(os.fsdecode(name))
    if target.name in ('.', '..') or target.exists():
        return
    (shutil.copyfile if copy else os.rename)(path, target)


def echoes(draw, root):
    """Files missing, doubled or numbered as they should not be."""
    path = _scan(draw, root)
    what = draw(st.sampled_from(['missing', 'missing', 'number', 'part', 'double', 'acq', 'empty']))
    if what == 'missing':
        for found in draw(st.lists(st.sampled_from(_files(root, 'data/sub-01/anat/*MEGRE*')), max_size=6)):
            found.unlink(missing_ok=True)
    elif what == 'number':
        number = draw(st.sampled_from(['0', '01', '3', '99', '999999999999', 'a', '', '-1', '1.5', '٣', '²']))
        _move(path, path.with_name(path.name.replace('echo-1', f'echo-{number}')), copy=draw(st.booleans()))
    elif what == 'part':
        part = draw(st.sampled_from(['real', 'imag', 'phase', 'mag', 'Phase', 'x', '']))
        _move(path, path.with_name(path.name.replace('part-mag', f'part-{part}')), copy=draw(st.booleans()))
    elif what == 'double':
        _move(path, path.with_name(path.name.replace('.nii.gz', '.nii')), copy=True)
    elif what == 'acq':
        _move(path, path.with_name(path.name.replace('sub-01', 'sub-01_acq-x')), copy=draw(st.booleans()))
    else:
        path.write_bytes(b'')


def sidecars(draw, root):
    """Values of any type in sidecars, and files that are no JSON."""
    where = draw(st.sampled_from(['scan', 'scan', 'scan', 'inherited', 'other']))
    paths = {
        'scan': _files(root, 'data/sub-01/anat/*.json'),
        'inherited': [root / 'data' / 'sub-01' / name for name in ('sub-01_MEGRE.json', 'MEGRE.json')],
        'other': [
            root / 'data' / 'sub-01' / folder / f'sub-01_{suffix}.json'
            for folder, suffix in (('fmap', 'epi'), ('func', 'bold'), ('x', 'y'), ('anat', 'x'))
        ],
    }[where]
    path = draw(st.sampled_from(paths))
    path.parent.mkdir(exist_ok=True)
    if draw(st.booleans()):
        path.write_bytes(draw(JUNK))
        return
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= draw(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
    path.write_text(json.dumps(content).encode('utf-8', 'replace').decode(), encoding='utf-8')


_SHORTS = st.sampled_from([0, -1, 1, 2, 3, 4, 5, 7, 8, 12, 32767, -32768, 1625, 10000])
_FLOATS = st.sampled_from([0.0, -2.0, 1e-30, 1e30, np.nan, np.inf, -np.inf, 352.0, 351.0, 1e9, 348.0, 2.0])
_FIELDS = {
    'sizeof_hdr': (0, 'i', st.sampled_from([0, 540, 348 << 8, -1, 1543569408])),
    **{f'dim{i}': (40 + 2 * i, 'h', _SHORTS) for i in range(8)},
    'datatype': (
        70,
        'h',
        st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2304, -1]),
    ),
    'bitpix': (72, 'h', st.sampled_from([0, 1, 8, 16, 32, 64, 24, -16])),
    **{f'pixdim{i}': (76 + 4 * i, 'f', _FLOATS) for i in range(4)},
    'vox_offset': (108, 'f', _FLOATS),
    'scl_slope': (112, 'f', _FLOATS),
    'scl_inter': (116, 'f', _FLOATS),
    'xyzt_units': (123, 'B', st.sampled_from([0, 1, 3, 255])),
    'qform_code': (252, 'h', st.sampled_from([0, 1, -1, 9])),
    'sform_code': (254, 'h', st.sampled_from([0, 1, -1, 9])),
    **{f'quatern{i}': (256 + 4 * i, 'f', _FLOATS) for i in range(6)},
    **{f'srow{i}': (280 + 4 * i, 'f', _FLOATS) for i in range(12)},
    'magic': (344, '4s', st.sampled_from([b'\0\0\0\0', b'ni1\0', b'n+2\0', b'n+1x'])),
    'extension': (348, '4B', st.just((1, 0, 0, 0))),
    'extension_size': (352, 'i', st.sampled_from([0, -1, 2**31 - 1, 16, 7])),
}


def headers(draw, root):
    """NIfTI headers with any value in any field, in one file or in all of a series."""
    changes = {
        name: draw(_FIELDS[name][2])
        for name in draw(st.lists(st.sampled_from(sorted(_FIELDS)), min_size=1, max_size=3))
    }
    if draw(st.booleans()):
        changes |= {f'dim{i}': draw(_SHORTS) for i in range(draw(st.integers(1, 4)))}
    for path in _chosen(draw, root):
        raw = bytearray(_read(path))
        for name, value in changes.items():
            offset, code, _ = _FIELDS[name]
            struct.pack_into('<' + code, raw, offset, *(value if isinstance(value, tuple) else (value,)))
        _write(path, bytes(raw))


def _chosen(draw, root):
    """One image of the subject, or all of its series."""
    every = _files(root, 'data/sub-01/anat/*MEGRE.nii*')
    others = _files(root, 'data/sub-01/anat/*w.nii*')
    return every if draw(st.booleans()) else [draw(st.sampled_from(every + others))]


def _read(path):
    return gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()


def _write(path, raw):
    path.write_bytes(gzip.compress(raw, 1, mtime=0) if path.suffix == '.gz' else raw)


def damage(draw, root):
    """Files cut short, with bits flipped, with more behind their end, or something else altogether."""
    (path,) = _chosen(draw, root)[:1]
    raw = path.read_bytes()
    what = draw(st.sampled_from(['cut', 'flip', 'tail', 'junk', 'members', 'plain', 'packed', 'zeros']))
    place = draw(st.integers(0, len(raw) - 1))
    if what == 'cut':
        raw = raw[:place]
    elif what == 'flip':
        raw = raw[:place] + bytes([raw[place] ^ (1 << draw(st.integers(0, 7)))]) + raw[place + 1 :]
    elif what == 'tail':
        raw += draw(st.binary(min_size=1, max_size=20))
    elif what == 'junk':
        raw = draw(JUNK)
    elif what == 'members':
        half = len(_read(path)) // 2
        raw = gzip.compress(_read(path)[:half]) + gzip.compress(_read(path)[half:])
    elif what == 'plain':
        raw = _read(path)
    elif what == 'packed':
        raw = gzip.compress(raw)
    else:
        raw = raw[:place] + bytes(len(raw) - place)
    path.write_bytes(raw)


_DTYPES = ('u1', 'i1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8', 'c8', 'c16', 'f4,f4', '>i2', '>f4')


def arrays(draw, root):
    """Any number of dimensions, any type, and values that are not numbers, too large, or all the same."""
    what = draw(st.sampled_from(['shape', 'dtype', 'values', 'values', 'values']))
    shapes = [(13,), (13, 12), (13, 12, 1), (1, 12, 10), (13, 12, 10, 1), (13, 12, 10, 2), (13, 12, 10, 1, 3)]
    shape = draw(st.sampled_from([*shapes, (12, 13, 10), (2, 2, 2), (3, 2, 2), (13, 12, 11)]))
    dtype, share = draw(st.sampled_from(_DTYPES)), draw(st.sampled_from([0.001, 0.3, 1]))
    value = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e38, -1e38, 1e-38, -5.0, 4096.0]))
    for path in _chosen(draw, root):
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
        if what == 'shape':
            data = np.resize(data, shape)
        elif what == 'dtype' and ',' in dtype:
            data = np.repeat(data.astype(np.uint8)[..., None], 3, -1).view([(c, 'u1') for c in 'RGB'])[..., 0]
        elif what == 'dtype':
            data = data.astype(dtype)
        else:
            data = data.astype(np.float32)
            data[np.random.default_rng(0).random(data.shape) < share] = value
        kind = type(image) if data.dtype.byteorder != '>' else nib.Nifti1Image
        header = nib.Nifti1Header(endianness='>') if data.dtype.byteorder == '>' else None
        kind(data, image.affine, header, dtype=data.dtype).to_filename(path)


def links(draw, root):
    """Symlinks: loops, broken ones, folders in place of files, pipes."""
    anat = root / 'data' / 'sub-01' / 'anat'
    what = draw(st.sampled_from(['loop', 'loops', 'self', 'broken', 'outside', 'folder', 'pipe', 'up']))
    path = _scan(draw, root)
    if what == 'loop':
        draw(st.sampled_from([anat, anat.parent])).joinpath('again').symlink_to(anat.parent)
    elif what == 'up':
        anat.joinpath('up').symlink_to(root)
    elif what == 'loops':
        for n in range(3):
            (anat / f'loop{n}').symlink_to(anat)
        (anat.parent / 'ses-1').symlink_to(anat.parent)
    elif what == 'self':
        path.unlink()
        path.symlink_to(path.name)
    elif what == 'broken':
        path.unlink()
        path.symlink_to('.git/annex/objects/none')
    elif what == 'outside':
        path.unlink()
        path.symlink_to(draw(st.sampled_from(['/dev/null', '/dev/zero', '/proc/self/mem', '/'])))
    elif what == 'folder':
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
        os.mkfifo(path)


def derivatives(draw, root):
    """Earlier derivatives that are not what their names say."""
    paths = [p for p in _files(root, 'derivatives/sub-01/anat/*') if p.suffix != '.json']
    path = draw(st.sampled_from(paths))
    what = draw(st.sampled_from(['junk', 'gone', 'name', 'shape', 'affine', 'folder', 'table', 'freesurfer']))
    if what == 'junk':
        path.write_bytes(draw(JUNK))
    elif what == 'gone':
        path.unlink()
    elif what == 'name':
        words = path.name.split('_')
        n = draw(st.integers(0, len(words) - 1))
        words[n] = words[n].partition('-')[0] + '-' + draw(WORDS)
        _move(path, path.with_name('_'.join(words)), copy=draw(st.booleans()))
    elif what in ('shape', 'affine') and path.name.endswith('.nii.gz'):
        shape = draw(st.sampled_from([(13, 12), (13, 12, 10, 2), (4, 5, 6), (13, 12, 10, 1, 3)]))
        affine = draw(st.sampled_from([np.diag([9.0, 2, 2, 1]), np.full((4, 4), np.nan), np.zeros((4, 4))]))
        image = nib.Nifti1Image(np.ones(shape if what == 'shape' else SHAPE, np.float32), None)
        image.header.set_sform(affine if what == 'affine' else AFFINE, 1)
        image.to_filename(path)
    elif what == 'folder':
        path.unlink()
        path.mkdir()
    elif what == 'freesurfer':
        mri = root / 'derivatives' / draw(st.sampled_from(['sub-01', 'sub-01_ses-1'])) / 'mri'
        mri.mkdir(parents=True, exist_ok=True)
        (mri / 'aseg.mgz').write_bytes(draw(JUNK))
    else:
        tables = (
            '',
            'index\n1\n',
            'index\tname\nx\ty\n',
            'index\tname\n-1\ty\n',
            'index\tname\n1\n',
            '\0\t\n',
        )
        tables += (
            'index\tname\n' + '9' * 30 + '\ty\n',
            'index\tname\n1\t' + draw(WORDS).strip('\udcff') + '\n',
        )
        path.with_name('sub-01_seg-hand_dseg.tsv').write_text(draw(st.sampled_from(tables)), encoding='utf-8')


def several(draw, root):
    """Two or three of the above at once; those first that need a sound image to start from."""
    for spoil in sorted(
        draw(st.lists(st.sampled_from(_SINGLE), min_size=2, max_size=3, unique=True)), key=_SINGLE.index
    ):
        if _files(root, 'data/sub-01/anat/*MEGRE.nii*'):
            spoil(draw, root)


_SINGLE = (arrays, headers, sidecars, derivatives, echoes, names)


def dataset(draw, root):
    """What both subjects share: the description, tables, sidecars at the root, and folders."""
    data = root / 'data'
    names = ('dataset_description.json', 'MEGRE.json', 'participants.tsv', 'participants.json', 'README')
    names += ('.bidsignore', 'x.json', 'task-rest_bold.json', 'sub-01/sub-01_scans.tsv')
    what = draw(st.sampled_from(['file', 'file', 'description', 'folder', 'subject', 'empty']))
    if what == 'file':
        path = data / draw(st.sampled_from(names))
        path.write_bytes(draw(JUNK))
    elif what == 'description':
        keys = st.sampled_from(['Name', 'BIDSVersion', 'DatasetType', 'DatasetDOI', 'GeneratedBy'])
        content = draw(st.dictionaries(keys, VALUES, max_size=4))
        (data / 'dataset_description.json').write_text(json.dumps(content), encoding='utf-8')
    elif what == 'folder':
        path = data / draw(st.sampled_from(names))
        path.unlink(missing_ok=True)
        path.mkdir()
    elif what == 'subject':
        word = os.fsdecode(os.fsencode(f'sub-{draw(WORDS)}')[:200])
        if not (data / word).exists():
            (data / 'sub-01').rename(data / word)
            for path in _files(data / word, 'anat/*'):
                name = os.fsdecode(os.fsencode(path.name.replace('sub-01', word))[:250])
                path.rename(path.with_name(name))
    else:
        for sub in ('01', '02'):
            shutil.rmtree(data / f'sub-{sub}' / 'anat')


def harmless(draw, root):
    """What a sound dataset may well have."""
    data = root / 'data'
    what = draw(st.sampled_from(['files', 'annex', 'hidden', 'link', 'readme', 'keys']))
    if what == 'files':
        for name in draw(st.lists(WORDS.filter(lambda w: w.strip('.') and 'MEGRE' not in w), max_size=3)):
            (data / os.fsdecode(os.fsencode(name)[:200])).write_text('x')
    elif what == 'annex':
        for n, path in enumerate(_files(data, 'sub-*/anat/*.nii*')):
            (root / 'annex').mkdir(exist_ok=True)
            path.rename(root / 'annex' / str(n))
            path.symlink_to(root / 'annex' / str(n))
    elif what == 'hidden':
        (data / 'sub-01' / 'anat' / '._sub-01_echo-1_part-mag_MEGRE.nii').write_bytes(b'x')
        (data / '.git').mkdir()
    elif what == 'link':
        (root / 'data').rename(root / 'elsewhere')
        (root / 'data').symlink_to(root / 'elsewhere')
    elif what == 'readme':
        (data / 'README.md').write_bytes(b'\xff\xfe')
    else:
        path = _files(data, 'sub-01/anat/*MEGRE.json')[0]
        more = draw(st.dictionaries(st.text(min_size=1, max_size=5), VALUES, max_size=4))
        content = {**{f'Other{k}': v for k, v in more.items()}, **json.loads(path.read_text())}
        path.write_text(json.dumps(content), encoding='utf-8')


KINDS = {spoil.__name__: spoil for spoil in (*_SINGLE, damage, links, several, dataset, harmless)}
"""All of them by name."""
