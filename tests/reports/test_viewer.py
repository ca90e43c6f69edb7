import base64
import json
import re
import shutil
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications import application, applications
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.errors import UserError, size_text
from bids_qsm.interfaces.viewer import PackVolumes
from bids_qsm.plotting.layers import label_layer, rooms
from bids_qsm.plotting.volumes import unpacked
from bids_qsm.reports import subject, viewer
from bids_qsm.reports.subject import build_subject_report
from bids_qsm.reports.viewer import build_viewer
from tests.pages import Page, assert_self_contained
from tests.reports.access import unnamed, weak_texts

NASTY = '</script><script>alert(1)</script>'
SHAPE = (36, 44, 30)
SYMBOLS = {'chi': 'χ', 'r2star': 'R2*'}
AFFINES = {
    # oblique, first axis from right to left; axes in another order
    'sub-01_ses-1': nib.eulerangles.euler2mat(0.05, 0.15, 0.2) @ np.diag([-4.0, 4, 4.5]),
    'sub-01_ses-2': np.array([[0, 0, 4.0], [4, 0, 0], [0, -4, 0.3]]),
}
BOTH = pytest.mark.parametrize('name', AFFINES)


def head(name):
    """Affine, coordinates, mask, susceptibility and labels (11 left, 12 right) of a series."""
    affine = nib.affines.from_matvec(AFFINES[name])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + [3, -6, 10]
    places = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    x, y, z = np.moveaxis(places, -1, 0)
    mask = (x / 55) ** 2 + ((y + 6) / 70) ** 2 + ((z - 10) / 48) ** 2 < 1
    noise = np.random.default_rng(len(name)).normal(0, 0.02, SHAPE)
    chi = np.where(mask, 0.0004 * x - 0.0003 * y + 0.0005 * z + noise, 0).astype(np.float32)
    labels = np.zeros(SHAPE, np.int16)
    for index, side in ((11, -1), (12, 1)):
        labels[(np.abs(x - side * 25) < 9) & (np.abs(y) < 12) & (np.abs(z - 10) < 10)] = index
    # a bright block on the left of the subject, high up
    chi[(np.abs(x + 30) < 12) & (np.abs(y) < 12) & (np.abs(z - 10) < 9)] = 0.5
    return affine, places, mask, chi, labels


def write_head(out, name):
    affine, _, mask, chi, labels = head(name)
    anat = out / 'sub-01' / name.rpartition('_')[2] / 'anat'
    anat.mkdir(parents=True)
    figures = out / 'sub-01' / 'figures'
    figures.mkdir(exist_ok=True)

    def save(data, rest):
        path = anat / f'{name}_{rest}.nii.gz'
        nib.save(nib.Nifti1Image(data, affine), path)
        return str(path)

    files = {
        'chi': save(chi, 'Chimap'),
        'r2star': save(np.where(mask, 30 + 100 * chi, 0).astype(np.float32), 'R2starmap'),
        'magnitude': save((1000 + 5000 * chi).astype(np.float32), 'magnitude'),
        'mask': save(mask.astype(np.uint8), 'desc-brain_mask'),
        'dseg': save(labels, 'seg-nuclei_dseg'),
        'labels': str(anat / f'{name}_seg-nuclei_dseg.tsv'),
        'iron': save(np.where(mask, 8 + 40 * chi, 0).astype(np.float32), 'desc-iron_concmap'),
        'veins': save((chi > 0.4).astype(np.uint8), 'label-vein_mask'),
        'lesions': save((chi > 0.4).astype(np.int16) * 3, 'desc-lesions_dseg'),
    }
    rows = {'index': [11, 12], 'name': ['L', 'R'], 'hemisphere': ['L', 'R'], 'region': [f'GP{NASTY}'] * 2}
    pd.DataFrame(rows).to_csv(anat / f'{name}_seg-nuclei_dseg.tsv', sep='\t', index=False)
    known = {'map': 'chi', 'volume_mm3': 9.0, 'coverage': 1.0, 'mean': 0.1, 'sd': 0.02}
    known |= {'units': 'ppm', 'reference': 'CSF'}
    table = pd.DataFrame(
        [{'region': f'GP{NASTY}', 'hemisphere': side, **known} for side in ('L', 'R', 'both')]
    )
    table.to_csv(anat / f'{name}_seg-nuclei_stats.tsv', sep='\t', index=False)
    lesions = pd.DataFrame({'lesion': [1, 2], 'x': [-30.0, None], 'y': [0.0, None], 'z': [10.0, None]})
    lesions = lesions.reindex(columns=[*lesions, *application('lesions').tables[0].shown[:1]])
    lesions.to_csv(anat / f'{name}_label-lesion_stats.tsv', sep='\t', index=False, na_rep='n/a')
    (figures / f'{name}_desc-findings.json').write_text(json.dumps({'facts': {'Echoes': '5'}}))
    room, own = rooms(len(AFFINES), {'ironmyelin': (1, 0), 'lesions': (0, 2)})
    pack_volumes(
        files,
        figures / f'{name}_desc-viewer_volumes.json',
        {port: PRODUCTS[port].look for port in ('chi', 'r2star', 'magnitude')},
        {'dseg': 'Regions (nuclei)'},
        room=room,
    )
    of_iron = {'iron': application('ironmyelin').images[0].look}
    path = figures / f'{name}_desc-viewerironmyelin_volumes.json'
    pack_volumes(files, path, of_iron, {}, room=own['ironmyelin'], may_leave_out=True)
    drawn = {'veins': 'Veins', 'lesions': application('lesions').images[0].title}
    path = figures / f'{name}_desc-viewerlesions_volumes.json'
    pack_volumes(files, path, {}, drawn, room=own['lesions'], may_leave_out=True)


def pack_volumes(files, path, looks, titles, **settings):
    """Pack maps and labels as a run does."""
    maps = [
        {'port': port, 'look': asdict(look), 'symbol': SYMBOLS.get(port, '')} for port, look in looks.items()
    ]
    labels = [
        {'port': port, 'title': title, 'table': '', 'stem': Path(files[port]).name.removesuffix('.nii.gz')}
        for port, title in titles.items()
    ]
    for one in labels:
        one['table'] = 'labels' if one['port'] == 'dseg' else ''
    step = PackVolumes(maps, labels, **settings, mask=files['mask'])
    ports = [*looks, *titles, *(one['table'] for one in labels if one['table'])]
    step.inputs.trait_set(**{port: files[port] for port in ports})
    with TemporaryDirectory() as folder:
        path.write_text(Path(step.run(cwd=folder).outputs.volumes).read_text())


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """Output of a subject with two sessions."""
    out = tmp_path_factory.mktemp('out')
    for name in AFFINES:
        write_head(out, name)
    build_subject_report(out, '01')
    return out


@pytest.fixture(scope='module')
def built(out):
    viewer, troubles = build_viewer(out / 'sub-01', AFFINES)
    assert troubles == []
    return viewer


@BOTH
def test_volumes_of_the_page_are_those_of_the_files(built, name):
    series = next(one for one in built['content'] if one['name'] == name)
    _, places, mask, chi, labels = head(name)
    assert [layer['key'] for layer in series['maps']] == ['chi', 'r2star', 'magnitude', 'iron']
    assert [layer['title'] for layer in series['labels']] == ['Regions (nuclei)', 'Veins', 'Lesions']
    first = series['maps'][0]
    shape, affine = first['shape'], np.array(first['affine'])
    assert np.prod(shape) < 0.8 * np.prod(SHAPE)
    voxels = np.argwhere(mask)[::97]
    at = np.rint(nib.affines.apply_affine(np.array(first['inverse']), places[tuple(voxels.T)])).astype(int)
    np.testing.assert_allclose(nib.affines.apply_affine(affine, at), places[tuple(voxels.T)], atol=1e-4)
    chosen, own = tuple(at.T), tuple(voxels.T)
    stored = (chi, 30 + 100 * chi, 1000 + 5000 * chi, 8 + 40 * chi)
    for layer, values in zip(series['maps'], stored, strict=True):
        shown = unpacked(base64.b64decode(built['blocks'][layer['data']]), shape)[chosen] * layer['step']
        # rounded once
        assert np.abs(shown - values[own]).max() <= 0.501 * layer['step']
    numbered = unpacked(base64.b64decode(built['blocks'][series['labels'][0]['data']]), shape)
    assert np.array_equal(numbered[chosen], np.where(labels[own] > 0, labels[own] - 10, 0))


def test_precision_is_stated_and_the_library_fits(built):
    assert built['notes'] == [
        'The viewer holds χ in steps of 0.001 ppm, R2* in steps of 0.2 1/s, other images in 250 grey values, '
        'Iron in steps of 0.05 mg/100 g.'
    ]
    assert len(built['library']) < 450_000


def test_a_page_of_several_runs_keeps_all_series_and_its_size(out, built, tmp_path, monkeypatch):
    copy = shutil.copytree(out, tmp_path / 'out')
    of_many_regions(copy, 'sub-01_ses-1')
    monkeypatch.setattr(subject, 'build_viewer', lambda *_: (None, []))
    without = build_subject_report(copy, '01').stat().st_size
    monkeypatch.undo()
    size = sum(map(len, built['blocks'].values()))
    for share in (0.8, 0.2):
        limit = len(built['library']) + 50_000 + int(share * size)
        monkeypatch.setattr(viewer, 'LIMIT', limit)
        said = []
        page = build_subject_report(copy, '01', said)
        assert said == []
        assert 0.85 * limit < page.stat().st_size - without <= limit
        small, troubles = build_viewer(copy / 'sub-01', AFFINES)
        assert troubles == []
        assert [[one['key'] for one in series['maps']] for series in small['content']] == [
            ['chi', 'r2star', 'magnitude', 'iron']
        ] * 2
        assert 'The series were packed in several runs' in small['notes'][-1]
        said = [note for note in small['notes'] if 'were joined to' in note]
        for name, series in zip(AFFINES, small['content'], strict=True):
            for one in series['maps']:
                spacing = nib.affines.voxel_sizes(np.array(one['affine']))
                to = size_text(spacing)
                coarse = spacing.max() > 5
                assert any(name in note and f'joined to {to} mm' in note for note in said) == coarse
    monkeypatch.setattr(viewer, 'LIMIT', 0)
    nothing, troubles = build_viewer(out / 'sub-01', AFFINES)
    assert nothing is None
    assert [name for name, _ in troubles] == [*AFFINES]
    assert 'run the sessions of the participant together' in troubles[0][1]


def of_many_regions(out, name):
    """Give a series 100 regions on two sides, in its table and its volumes."""
    sides = [(f'region <{i}>', side) for i in range(100) for side in ('L', 'R')]
    (path,) = out.rglob(f'{name}_seg-nuclei_stats.tsv')
    row = pd.read_csv(path, sep='\t').iloc[:1]
    rows = [row.assign(region=region, hemisphere=side) for region, side in sides]
    pd.concat(rows).to_csv(path, sep='\t', index=False)
    path = out / 'sub-01' / 'figures' / f'{name}_desc-viewer_volumes.json'
    pack = json.loads(path.read_text())
    names = [f'{region} {side}' for region, side in sides]
    pack['labels'][0] |= {'names': names, 'colours': ['#00ff00'] * 200}
    pack['places'] = {f'{name}_seg-nuclei_dseg': [[*key, '-12.34 -10.00 12.34'] for key in sides]}
    path.write_text(json.dumps(pack))


@pytest.mark.parametrize(
    'spoil', [lambda data, affine: (data, affine + 0.5), lambda data, affine: (data[1:], affine)]
)
def test_an_image_on_another_grid_is_named(tmp_path, spoil):
    write_head(tmp_path, 'sub-01_ses-1')
    anat = tmp_path / 'sub-01' / 'ses-1' / 'anat'
    files = {'chi': anat / 'sub-01_ses-1_Chimap.nii.gz', 'mask': anat / 'sub-01_ses-1_desc-brain_mask.nii.gz'}
    image = nib.load(files['chi'])
    nib.save(nib.Nifti1Image(*spoil(np.asarray(image.dataobj), image.affine)), files['chi'])
    with pytest.raises(UserError, match=r'Chimap\.nii\.gz is not on the grid of the mask'):
        pack_volumes(files, tmp_path / 'x', {'chi': PRODUCTS['chi'].look}, {}, room=10**6)


def test_labels_of_a_series_have_titles_of_their_own():
    apps = [app for app in applications() if app.scope == 'series']
    titles = [one.title for app in apps for one in app.images if one.suffix in ('dseg', 'mask')]
    assert len(titles) > 10
    assert sorted(titles) == sorted(set(titles))


@BOTH
def test_places_of_regions_lie_in_them(built, name):
    affine, _, _, _, labels = head(name)
    places = built['places'][name][f'{name}_seg-nuclei_dseg']
    for side, index in (('L', 11), ('R', 12)):
        x, y, z = map(float, places[f'GP{NASTY}', side].split())
        assert (x < 0) == (side == 'L')
        voxel = np.rint(np.linalg.inv(affine) @ [x, y, z, 1])[:3].astype(int)
        assert labels[tuple(voxel)] == index


def test_regions_of_two_labels_have_a_place():
    dseg = np.zeros((5, 4, 3), np.int32)
    dseg[1, 1, 1], dseg[2:5, 1, 1], dseg[0, 3, 2] = 3, 9, 4
    rows = {'index': [3, 9, 4], 'name': list('abc'), 'hemisphere': ['L', 'L', '']}
    labels = pd.DataFrame({**rows, 'region': ['SNc', 'SNr', 'other']})
    layer, places = label_layer('dseg', 'Regions', dseg, np.diag([2.0, 2, 2, 1]), labels)
    assert layer.about['names'] == ['SNc L', 'other', 'SNr L']
    assert np.array_equal(np.unique(layer.volume.data), [0, 1, 2, 3])
    assert places == {
        ('SNc', 'L'): '2.00 2.00 2.00',
        ('SNr', 'L'): '6.00 2.00 2.00',
        ('SN', 'L'): '4.00 2.00 2.00',
        ('other', ''): '0.00 6.00 4.00',
    }


def test_page_escapes_names(out):
    page = Page(out / 'sub-01.html')
    assert_self_contained(page)
    assert 'script' not in page.tags
    assert f'GP{NASTY}' in page.text


def test_a_subject_without_maps_has_no_viewer(tmp_path):
    (tmp_path / 'sub-01' / 'anat').mkdir(parents=True)
    text = build_subject_report(tmp_path, '01').read_text()
    assert 'id="viewer"' not in text
    assert "script-src 'none'" in text.replace('&#39;', "'")


@pytest.mark.parametrize(
    'damaged',
    [
        lambda text: text[:-9],
        lambda _: '',
        lambda _: '[]',
        lambda _: '{}',
        lambda text: text.replace('"step"', '"stop"', 1),
        lambda text: text.replace('"places": {', '"places": {"x": 3, ', 1),
        lambda text: text.replace('"left_out": []', '"left_out": [{}]'),
        lambda text: text.replace('"low": -0.1', '"low": NaN'),
        lambda text: text.replace('"step": 0.2', '"step": null'),
        lambda text: text.replace('"data": "H4sI', '"data": "H4s!', 1),
        lambda text: re.sub('("data": "[^"]{400})....', r'\1AAAA', text, count=1),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(tmp_path, damaged):
    write_head(tmp_path, 'sub-01_ses-1')
    figures = tmp_path / 'sub-01' / 'figures'
    name = 'sub-01_ses-1_desc-viewer_volumes.json'
    text = (figures / name).read_text()
    assert damaged(text) != text
    (figures / name).write_text(damaged(text))
    viewer, troubles = build_viewer(tmp_path / 'sub-01', ['sub-01_ses-1'])
    assert [(one, text.partition(' ')[0]) for one, text in troubles] == [('sub-01_ses-1', name)]
    (series,) = viewer['content']
    assert [layer['key'] for layer in series['maps']] == ['iron']
    assert [layer['title'] for layer in series['labels']] == ['Veins', 'Lesions']
    said = []
    page = Page(build_subject_report(tmp_path, '01', said))
    assert f'sub-01_ses-1, viewer: {name} ' in page.text
    assert [text.startswith(f'sub-01_ses-1: {name} ') for text in said] == [True]


def test_an_output_without_volumes_has_a_page_without_viewer(tmp_path):
    write_head(tmp_path, 'sub-01_ses-1')
    for path in (tmp_path / 'sub-01' / 'figures').glob('*_volumes.json'):
        path.unlink()
    said = []
    page = build_subject_report(tmp_path, '01', said)
    assert said == []
    assert 'id="viewer"' not in page.read_text()
    assert 'Table of regions' in Page(page).text


FOCUSED = 'document.activeElement.textContent.trim() || document.activeElement.tagName'
LOCATE = """async ([mm, name]) => {
  const told = bidsQsmViewer.nv.onLocationChange
  let location
  bidsQsmViewer.nv.onLocationChange = (found) => { location = found; told(found) }
  await bidsQsmViewer.go(mm, name)
  return [location.mm, location.values[0].value, await bidsQsmViewer.read(mm)]
}"""


# chooses maps at a time, of which the first takes longest, and waits for all
CHOOSE = """async (keys) => {
  const select = document.querySelector('[name=map]')
  const make = niivue.NVImage.new
  const made = []
  niivue.NVImage.new = (...about) => {
    const late = made.length ? 0 : 150
    const one = new Promise((done) => setTimeout(done, late)).then(() => make.apply(niivue.NVImage, about))
    made.push(one)
    return one
  }
  for (const key of keys) {
    select.value = key
    select.dispatchEvent(new Event('change'))
  }
  for (let n = -1; n < made.length || n < keys.length;) {
    n = made.length
    await Promise.all(made)
    await new Promise((done) => setTimeout(done, 20))
  }
  niivue.NVImage.new = make
  const unit = document.querySelector('.viewer .unit').textContent
  return [bidsQsmViewer.here.map.key, bidsQsmViewer.nv.volumes[0].cal_max, unit]
}"""


# jumps to two rows at a time, of which the first must wait for another series
JUMP = """async () => {
  const { go } = bidsQsmViewer
  await Promise.all([go([20, 0, 10], 'sub-01_ses-1'), go([-20, 0, 10], 'sub-01_ses-2')])
  return [bidsQsmViewer.here.series.name, bidsQsmViewer.here.at[0]]
}"""


# gives the labels that are shown 300 names, of which those that are there are the last
MANY = """() => {
  const layer = bidsQsmViewer.here.series.labels.find((one) => one.key === 'dseg')
  layer.names = Array.from({ length: 300 }, (_, i) => `${i}`)
  layer.colours = layer.names.map((_, i) => (i < 2 ? '#ff0000' : '#00ff00'))
}"""
SPOIL = """(keys) => {
  for (const one of bidsQsmViewer.here.series.maps) if (keys.includes(one.key)) one.data = 'nowhere'
}"""


def test_viewer_in_a_browser(out, visit):
    page = visit(out / 'sub-01.html')
    assert page.locator('.room').is_hidden()
    page.keyboard.press('Tab')
    assert page.evaluate(FOCUSED) == 'Skip to the report'
    page.locator('.open').press('Enter')
    page.evaluate('bidsQsmViewer.open()')
    # with the keys alone: from the controls to the picture, a step in it, and back
    page.wait_for_function("document.activeElement.name === 'map'")
    for _ in range(15):
        page.keyboard.press('Tab')
        if page.evaluate(FOCUSED) == 'CANVAS':
            break
    was = page.locator('#place').inner_text()
    page.keyboard.press('ArrowUp')
    page.wait_for_function('was => document.getElementById("place").textContent !== was', arg=was)
    page.keyboard.press('Escape')
    assert page.evaluate('document.activeElement.name') == 'map'
    page.locator('.jump', has_text='R').first.press('Enter')
    page.wait_for_function("document.activeElement.tagName === 'CANVAS'")
    page.keyboard.press('Escape')
    assert page.evaluate(FOCUSED) == 'R'
    assert (weak_texts(page), unnamed(page)) == ([], [])
    # what is under the crosshair is what nibabel finds there, in both orientations
    page.locator('[name=view]').select_option('0')
    for name in AFFINES:
        _, places, mask, _, labels = head(name)
        inside = np.argwhere(mask & (labels > 0))
        for voxel in inside[:: len(inside) // 3]:
            mm = places[tuple(voxel)] + 0.2
            at, value, found = page.evaluate(LOCATE, [mm.tolist(), name])
            stored = nib.load(out / 'sub-01' / name[7:] / 'anat' / f'{name}_Chimap.nii.gz')
            nearest = np.rint(nib.affines.apply_affine(np.linalg.inv(stored.affine), mm)).astype(int)
            assert nearest.tolist() == voxel.tolist()
            expected = float(stored.dataobj[tuple(nearest)])
            assert at[:3] == pytest.approx(mm, abs=0.01)
            assert value == pytest.approx(expected, abs=0.00051)
            assert found['values']['chi'] == pytest.approx(expected, abs=0.00051)
            iron = nib.load(out / 'sub-01' / name[7:] / 'anat' / f'{name}_desc-iron_concmap.nii.gz')
            assert found['values']['iron'] == pytest.approx(float(iron.dataobj[tuple(nearest)]), abs=0.026)
            assert found['labels']['dseg'] == f'GP{NASTY} {"L" if mm[0] < 0 else "R"}'
    assert page.locator('[name=series]').input_value() == '1'
    # of two jumps at a time the last counts, though the first must wait for another series
    assert page.evaluate(JUMP) == ['sub-01_ses-2', pytest.approx(-20, abs=0.01)]
    # a jump from a row of regions, and one from a row with coordinates
    page.locator('.jump', has_text='L').first.click()
    told = page.locator('#place')
    page.wait_for_selector('#place:has-text("GP")')
    assert page.locator('[name=series]').input_value() == '0'
    assert told.inner_text().startswith('x -2')
    assert 'ppm' in told.inner_text()
    page.locator('.jump', has_text='show').first.click()
    page.wait_for_selector('#place:has-text("x -30.0, y 0.0, z 10.0 mm; χ 0.500 ppm; R2* 80.0 1/s")')
    assert 'Iron 28.00 mg/100 g; Regions' in told.inner_text()
    assert told.inner_text().endswith('; Veins; Lesions: 3')
    # the keys move by a voxel
    page.locator('canvas').press('PageUp')
    page.wait_for_selector('#place:not(:has-text("z 10.0"))')
    # the bright block is on the left of the subject: left of the picture, and right of it when turned
    sides = [brightness(page)]
    page.locator('[name=turned]').check()
    sides.append(brightness(page))
    assert sides[0][0] > 1.5 * sides[0][1]
    assert sides[1][1] > 1.5 * sides[1][0]
    # labels in colour, another map, another window
    grey = colourful(page)
    page.get_by_label('Regions (nuclei)').check()
    page.wait_for_timeout(300)
    assert colourful(page) > grey + 100
    page.locator('[name=map]').select_option('r2star')
    page.wait_for_timeout(300)
    assert page.evaluate('bidsQsmViewer.nv.volumes[0].cal_max') == 60
    page.locator('[name=high]').fill('40')
    page.locator('[name=high]').press('Enter')
    assert page.evaluate('bidsQsmViewer.nv.volumes[0].cal_max') == 40
    black = dark(page)
    # iron in colours over it, with a window of its own
    page.locator('[name=over]').select_option('iron')
    page.wait_for_selector('.overwindow:has-text("mg/100 g")')
    assert colourful(page) > grey + 1000
    # what is outside the mask stays as it was, though 4.04 is between two steps
    page.locator('[name=overlow]').fill('4.04')
    page.locator('[name=overlow]').press('Enter')
    page.wait_for_function('bidsQsmViewer.nv.volumes[1].cal_min === 4.04')
    assert dark(page) > 0.95 * black
    page.locator('[name=overlow]').fill('0')
    page.locator('[name=overlow]').press('Enter')
    page.wait_for_function('bidsQsmViewer.nv.volumes[1].cal_min === 0')
    assert [page.locator(f'[name={end}]').input_value() for end in ('overlow', 'overhigh')] == ['0', '20']
    page.locator('[name=overhigh]').fill('50')
    page.locator('[name=overhigh]').press('Enter')
    page.wait_for_function('bidsQsmViewer.nv.volumes[1].cal_max === 50')
    page.locator('[name=over]').select_option('')
    page.wait_for_selector('.overwindow', state='hidden')
    # a window stays with its map, whatever else is chosen
    page.get_by_label('Veins').check()
    page.evaluate(CHOOSE, ['chi'])
    assert page.evaluate('bidsQsmViewer.nv.volumes[0].cal_max') == pytest.approx(0.2)
    page.evaluate(CHOOSE, ['r2star'])
    assert page.evaluate('bidsQsmViewer.nv.volumes[0].cal_max') == 40
    # of two choices at a time the last counts, though it is ready first
    assert page.evaluate(CHOOSE, ['magnitude', 'chi']) == ['chi', pytest.approx(0.2), 'ppm']
    assert page.evaluate(CHOOSE, ['chi', 'r2star']) == ['r2star', 40, '1/s']
    page.locator('[name=reset]').click()
    assert page.locator('[name=high]').input_value() == '60'
    # a map in colours ends at the mask, also where its lowest values have the strongest, whatever its window
    for colours in ('viridis', 'viridis_r'):
        layer = "bidsQsmViewer.here.series.maps.find((one) => one.key === 'iron')"
        page.evaluate(f"{layer}.colours = '{colours}'")
        page.evaluate(CHOOSE, ['iron'])
        assert dark(page) > 0.95 * black
    page.locator('[name=high]').fill('50')
    page.locator('[name=high]').press('Enter')
    page.wait_for_function('bidsQsmViewer.nv.volumes[0].cal_max === 50')
    assert dark(page) > 0.95 * black
    # many labels do not tint the background
    page.evaluate(MANY)
    page.get_by_label('Regions (nuclei)').uncheck()
    page.get_by_label('Regions (nuclei)').check()
    page.wait_for_timeout(300)
    assert dark(page) > 0.95 * black
    red = picture(page) @ [1, -0.5, -0.5] > 60
    assert 100 < red.sum() < 0.2 * red.size
    # what cannot be unpacked is named, and the rest is shown
    page.evaluate(SPOIL, ['iron', 'magnitude'])
    found = page.evaluate('bidsQsmViewer.read([-30, 0, 10])')
    assert found['values'] == {'chi': pytest.approx(0.5), 'r2star': pytest.approx(80)}
    page.locator('[name=map]').select_option('magnitude')
    page.wait_for_function("bidsQsmViewer.here.map.key === 'chi'")
    said = page.locator('.broken').inner_text()
    assert said.startswith('Left out, as the page is damaged there: ')
    assert said.endswith(', Iron.')
    page.emulate_media(media='print')
    assert page.locator('#viewer').is_hidden()
    assert page.locator('.jump').first.is_hidden()


def test_viewer_from_a_server(out, visit):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *about):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=out)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = visit(out / 'sub-01.html', at=f'http://127.0.0.1:{server.server_port}/')
        page.locator('nav a', has_text='Viewer of the images').click()
        assert page.url.endswith('/sub-01.html#viewer')
        page.locator('.open').click()
        page.evaluate('bidsQsmViewer.open()')
        page.locator('.jump', has_text='L').first.click()
        page.wait_for_selector('#place:has-text("ppm")')
        server.shutdown()


def picture(page):
    """The canvas as RGB."""
    from io import BytesIO

    from PIL import Image

    page.wait_for_timeout(200)
    shot = Image.open(BytesIO(page.locator('canvas').screenshot())).convert('RGB')
    return np.asarray(shot).astype(int)


def brightness(page):
    """How many pixels of the left and of the right half are white, below letters and above the colour bar."""
    white = (picture(page).min(axis=2) > 230)[60:-80]
    return white[:, : white.shape[1] // 2 - 20].sum(), white[:, white.shape[1] // 2 + 20 :].sum()


def dark(page):
    return (picture(page).max(axis=2) < 25).sum()


def colourful(page):
    return (np.ptp(picture(page), axis=2) > 60).sum()


@pytest.mark.parametrize(
    'settings',
    [{'java_script_enabled': False}, {'before': 'HTMLCanvasElement.prototype.getContext = () => null'}],
)
def test_without_scripts_or_webgl_the_pictures_remain(out, visit, settings):
    page = visit(out / 'sub-01.html', **settings)
    assert page.locator('.open').is_hidden()
    assert page.locator('.jump').first.is_hidden()
    assert page.get_by_text('without them, the pictures below show the same maps').is_visible()
