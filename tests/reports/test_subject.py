import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications import application
from bids_qsm.biomarkers.regions import TOO_SMALL
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.plotting.maps import plot_flicker, plot_map
from bids_qsm.plotting.region_charts import plot_regions
from bids_qsm.reports.citations import bibliography, cite, methods_text
from bids_qsm.reports.html import read_runs
from bids_qsm.reports.subject import build_subject_report, page_layout
from tests.pages import Page, assert_self_contained, picture
from tests.reports.access import unnamed, weak_texts

SERIES = 'sub-01_ses-1_acq-qsm_run-1'
NASTY = '<script>alert("x")</script>'


def stats(shift=0.0):
    rows = []
    for region, chi in (('SN', 0.11), ('GP', 0.13), ('Dentate', 0.15), ('Lesion1', 0.03)):
        for side in ('both',) if region == 'Lesion1' else ('L', 'R', 'both'):
            for name, mean, units in (('chi', chi + shift, 'ppm'), ('R2star', 20 + 100 * chi, '1/s')):
                rows.append(
                    {
                        'region': region,
                        'hemisphere': side,
                        'map': name,
                        'volume_mm3': 400.0,
                        'coverage': 0.625 if (region, side) == ('Dentate', 'R') else 1.0,
                        'mean': np.nan if (region, side) == ('Dentate', 'R') else mean,
                        'sd': 0.02,
                        'units': units,
                        'reference': 'CSF of the ventricles' if name == 'chi' else None,
                    }
                )
    return pd.DataFrame(rows)


def add_series(out, name, *, shift=0.0, figures=(), findings=()):
    subject = name.partition('_')[0]
    session = re.search(r'ses-\w+?(?=_)', name)
    anat = out / subject / (session.group() if session else '') / 'anat'
    anat.mkdir(parents=True, exist_ok=True)
    stats(shift).to_csv(anat / f'{name}_seg-nuclei_stats.tsv', sep='\t', index=False, na_rep='n/a')
    directory = out / subject / 'figures'
    directory.mkdir(parents=True, exist_ok=True)
    for file, content in figures:
        (directory / file).write_bytes(content)
    (directory / f'{name}_desc-findings.json').write_text(
        json.dumps({'series': name, 'findings': list(findings), 'facts': {'Voxel size': '1 x 1 x 2 mm'}})
    )


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Two subjects that were processed, one with two sessions, and one that failed."""
    out = tmp_path_factory.mktemp('out')
    rng = np.random.default_rng(0)
    volume = rng.normal(0.05, 0.05, (32, 40, 28)).astype(np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    affine = np.diag([5.0, 5, 5, 1])
    affine[:3, 3] = -80
    chi = plot_map(volume, affine, look=PRODUCTS['chi'].look, mask=mask)
    flicker = plot_flicker(volume, volume[::-1], affine, mask=mask).encode()
    add_series(
        out,
        SERIES,
        figures=[
            (f'{SERIES}_desc-chi_MEGRE.png', chi),
            (f'{SERIES}_desc-magnitude_MEGRE.png', chi),
            (f'{SERIES}_desc-gre2t1w_MEGRE.svg', flicker),
            (f'{SERIES}_desc-regions_MEGRE.svg', plot_regions(stats()).encode()),
            (f'{SERIES}_desc-novel_MEGRE.png', chi),
            ('sub-01_desc-t1w2template_T1w.svg', flicker),
        ],
        findings=[
            {
                'what': 'phase scaling',
                'found': '0 to 4095',
                'action': 'scaled',
                'evidence': '',
                'level': 'info',
            },
            {'what': 'phase sign', 'found': f'unsure {NASTY}', 'action': 'kept', 'level': 'warning'},
        ],
    )
    add_series(out, 'sub-01_ses-2_acq-qsm_run-1', shift=0.01)
    add_series(out, 'sub-02', shift=0.02)
    (out / 'logs').mkdir()
    record = {
        'version': '1.2.3',
        'command': f'bids_qsm /data "/out{NASTY}" participant',
        'started': '2026-01-01T00:00:00+00:00',
        'packages': {'numpy': '2.4.0'},
        'methods': ['Unwrapped with ROMEO [@romeo].', 'Removed [@vsharp], inverted [@tv; @romeo].'],
        'failures': [
            {'subject': '03', 'series': 'sub-03_MEGRE', 'node': 'unwrap', 'message': f'bad {NASTY}'},
        ],
    }
    (out / 'logs' / 'sub-03.json').write_text(json.dumps(record))
    (out / 'logs' / 'sub-01.json').write_text(json.dumps({**record, 'failures': []}))
    return out


@pytest.fixture(scope='module')
def page(dataset):
    return Page(build_subject_report(dataset, '01'))


def test_subject_page_is_self_contained_and_accessible(page):
    assert_self_contained(page)
    assert len(page.images) == 8  # of two figures both images that alternate
    assert all(len(image['alt']) > 10 for image in page.images)


def test_subject_page_says_what_matters(page):
    assert page.text.index('Needs attention') < page.text.index('What was found and corrected')
    assert page.text.index('unsure') < page.text.index('0 to 4095')
    assert 'less than 90 % inside the mask and the field of view: Dentate (62 %)' in page.text
    for said in ('Voxel size', '1 x 1 x 2 mm', 'phase scaling', 'scaled', '1.2.3', 'numpy', 'bids_qsm /data'):
        assert said in page.text
    assert '0.130 ± 0.020' in page.text
    assert 'Reference of χ: CSF of the ventricles.' in page.text
    assert 'sub-03' not in page.text


def test_text_of_the_dataset_is_escaped(page):
    assert page.text.count(NASTY) >= 2
    assert 'script' not in page.tags


def test_reportlets_stand_in_the_order_of_the_layout_and_none_is_lost(page):
    order = [i.rpartition('-')[2] for i in page.ids if i.startswith(SERIES)]
    listed = [e['kind'] for e in page_layout()['series']]
    known = [kind for kind in order if kind in listed]
    assert known == sorted(known, key=listed.index) == ['magnitude', 'chi', 'gre2t1w', 'regions']
    assert order[-1] == 'novel'
    assert 'sub-01-t1w2template' in page.ids


def test_series_named_like_the_subject(dataset):
    page = Page(build_subject_report(dataset, 'sub-02'))
    assert 'series-sub-02' in page.ids
    assert '0.150 ± 0.020' in page.text


def test_a_failed_subject_gets_a_page(dataset):
    path = build_subject_report(dataset, '03')
    assert path == dataset / 'sub-03.html'
    page = Page(path)
    assert_self_contained(page)
    assert f'bad {NASTY}' in page.text
    assert 'Step: unwrap' in page.text


def test_runs_of_single_subjects_are_gathered(tmp_path):
    assert read_runs(tmp_path, []) == {}
    (tmp_path / 'logs').mkdir()
    for label, started, version, methods in (
        ('2', '2026-01-02T00:00:00+00:00', '2', ['A.', 'B.']),
        ('10', '2026-01-01T00:00:00+00:00', '1', ['A.', 'C.']),
    ):
        record = {
            'started': started,
            'version': version,
            'methods': methods,
            'failures': [{'subject': label, 'message': 'm'}],
        }
        (tmp_path / 'logs' / f'sub-{label}.json').write_text(json.dumps(record))
    run = read_runs(tmp_path, [])
    assert (run['version'], run['methods']) == ('2', ['A.', 'B.', 'C.'])
    assert [f['subject'] for f in run['failures']] == ['2', '10']


def test_figures_of_the_anatomy(tmp_path):
    add_series(
        tmp_path,
        SERIES,
        figures=[
            ('sub-01_desc-atlast1w_figure.png', b'IEND\xaeB`\x82'),
            ('sub-01_space-MNI_desc-t1w2template_figure.svg', b'</svg>'),
            ('sub-01_space-Other_desc-t1w2template_figure.svg', b'</svg>\n'),
            ('sub-01_space-Other_desc-novel_figure.png', b'IEND\xaeB`\x82'),
        ],
    )
    page = Page(build_subject_report(tmp_path, '01'))
    assert_self_contained(page)
    anatomy = page.ids[page.ids.index('anatomy') + 1 : page.ids.index(f'series-{SERIES}')]
    assert anatomy == [
        'sub-01_space-MNI-t1w2template',
        'sub-01_space-Other-t1w2template',
        'sub-01-atlast1w',
        'sub-01_space-Other-novel',
    ]
    for title in ('image and template (MNI)', 'image and template (Other)', 'novel (Other)'):
        assert title in page.text
    assert [i for i in page.ids if i.startswith('series-')] == [f'series-{SERIES}']


@pytest.mark.parametrize(
    'finding',
    [
        {'found': 'Bad sign.', 'level': 'warning'},
        {'found': 'The data do not settle it (flat).'},
        {'found': 'Bad sign.', 'evidence': 'The data do not settle it (flat).'},
    ],
)
def test_warnings_need_attention(tmp_path, finding):
    add_series(tmp_path, SERIES, findings=[{'what': 'Phase sign', **finding}])
    page = Page(build_subject_report(tmp_path, '01'))
    assert 'Phase sign: ' + finding['found'] in page.text[: page.text.rindex('What was found and corrected')]
    assert 'no check raised' not in page.text


def test_a_finding_that_needs_no_attention(tmp_path):
    add_series(tmp_path, SERIES, findings=[{'what': 'Phase sign', 'found': 'Fine.', 'evidence': 'Set.'}])
    page = Page(build_subject_report(tmp_path, '01'))
    assert 'Phase sign: ' not in page.text


def test_lesions_and_candidates_stand_row_by_row(tmp_path):
    add_series(tmp_path, 'sub-01')
    anat = tmp_path / 'sub-01' / 'anat'
    lesions = pd.DataFrame(
        {
            'source': NASTY,
            'lesion': [1, None],
            'reason': [None, 'the mask is empty'],
            'chi_mean': [0.0412, None],
        }
    )
    lesions.to_csv(anat / 'sub-01_label-lesion_stats.tsv', sep='\t', index=False, na_rep='n/a')
    (anat / 'sub-01_label-lesion_stats.json').write_text('{"chi_mean": {"Units": "ppm"}}')
    pd.DataFrame({'kind': [], 'confidence': []}).to_csv(
        anat / 'sub-01_label-candidate_stats.tsv', sep='\t', index=False
    )
    page = Page(build_subject_report(tmp_path, '01'))
    assert_self_contained(page)
    for said in ('chi_mean (ppm)', '0.0412', 'the mask is empty', 'Candidates for microbleeds', 'None.'):
        assert said in page.text
    assert NASTY in page.text
    # they belong to the series, and make no further one
    assert [i for i in page.ids if i.startswith('series-')] == ['series-sub-01']


def table_of(tmp_path, rows, seg='nuclei'):
    anat = tmp_path / 'sub-01' / 'anat'
    anat.mkdir(parents=True, exist_ok=True)
    known = {
        'hemisphere': 'both',
        'map': 'chi',
        'volume_mm3': 9.0,
        'sd': 0.02,
        'units': 'ppm',
        'reference': '',
    }
    table = pd.DataFrame([{**known, **row} for row in rows])
    table.to_csv(anat / f'sub-01_seg-{seg}_stats.tsv', sep='\t', index=False, na_rep='n/a')
    return anat / f'sub-01_seg-{seg}_dseg.json'


def test_a_reference_that_was_not_found_is_noted_and_no_alert(tmp_path):
    why = 'not found: there is no R2* to find the ventricles by'
    lost = {'region': 'CSF', 'core': 'none', 'coverage': 0.0, 'mean': None, 'note': why}
    found = {'region': 'GP', 'core': 'eroded', 'coverage': 1.0, 'mean': 0.1, 'note': None}
    table_of(tmp_path, [lost, found])
    text = Page(build_subject_report(tmp_path, '01')).text
    assert 'less than 90 % inside' not in text
    assert f'CSF: {why}.' in text


def test_a_region_smaller_than_a_voxel_is_noted_and_no_alert(tmp_path):
    known = {'region': 'VTA', 'core': 'none', 'coverage': 0.0, 'mean': None, 'note': TOO_SMALL}
    table_of(tmp_path, [{**known, 'hemisphere': side} for side in ('L', 'R', 'both')])
    text = Page(build_subject_report(tmp_path, '01')).text
    assert 'less than 90 % inside' not in text
    assert f'VTA: {TOO_SMALL} on a side.' in text


def test_nuclei_with_the_outline_of_the_atlas_are_flagged(tmp_path):
    own = {'core': 'eroded', 'coverage': 1.0, 'mean': 0.1, 'note': None, 'confidence': 0.874}
    rows = [
        {**own, 'region': 'GP', 'hemisphere': 'L', 'source': 'own'},
        {**own, 'region': 'GP', 'hemisphere': 'R', 'source': 'own', 'confidence': 0.62},
        {**own, 'region': 'GP', 'hemisphere': 'both', 'source': 'own', 'confidence': 0.62},
        {**own, 'region': 'RN', 'hemisphere': 'L', 'source': 'prior', 'confidence': 0.0},
        {**own, 'region': 'RN', 'hemisphere': 'R', 'source': 'mixed', 'confidence': 0.0},
        {**own, 'region': 'Brain', 'source': None, 'confidence': None},
    ]
    table_of(tmp_path, rows)
    text = Page(build_subject_report(tmp_path, '01')).text
    for said in ('Outline, confidence', 'L own 0.87, R own 0.62', 'L atlas, R own and atlas'):
        assert said in text
    assert 'outline of the atlas were not made out in the maps, or not looked for' in text
    table_of(tmp_path, [{**own, 'region': 'GP'}])
    assert 'Outline, confidence' not in Page(build_subject_report(tmp_path, '01')).text


def test_coverage_of_the_subjects_own_segmentations_is_no_alert(tmp_path):
    rows = [{'region': 'ctx-insula', 'core': 'inner', 'coverage': 0.7, 'mean': 0.1, 'note': None}]
    sidecar = table_of(tmp_path, rows, 'aparcaseg')
    assert 'less than 90 % inside' in Page(build_subject_report(tmp_path, '01')).text
    sidecar.write_text('{"Description": "Labels of the atlas nuclei on the GRE", "Atlas": "nuclei"}')
    assert 'less than 90 % inside' in Page(build_subject_report(tmp_path, '01')).text
    sidecar.write_text('{"Description": "Labels of aparc+aseg.mgz, given with the anatomy, on the GRE"}')
    assert 'less than 90 % inside' not in Page(build_subject_report(tmp_path, '01')).text


def test_a_page_without_any_record(tmp_path):
    page = Page(build_subject_report(tmp_path, '01'))
    assert 'No record of the run was found' in page.text


def test_methods_text_numbers_references_by_first_use():
    text = methods_text(['A [@tv].', 'B [@romeo; @tv] and [@vsharp].'])
    assert text.startswith('A [1].\n\nB [2, 1] and [3].\n\nReferences\n1. Bilgic B, Fan AP,')
    assert '2. Dymerska B' in text
    assert 'doi:10.1002/mrm.28563' in text
    assert methods_text(['Nothing cited.']) == 'Nothing cited.\n'
    with pytest.raises(KeyError, match='nosuchkey'):
        cite(['[@nosuchkey]'])


def test_bibliography_is_complete():
    assert len(bibliography()) >= 23
    assert len({e['doi'] for e in bibliography().values()}) == len(bibliography())
    for entry in bibliography().values():
        assert {'author', 'title', 'journal', 'year', 'volume', 'pages', 'doi'} <= set(entry)
        assert re.fullmatch(r'10\.\d{4,}/\S+', entry['doi'])


def test_everything_cited_is_in_the_bibliography():
    cited = set()
    workflows = import_module('bids_qsm.workflows')
    for path in Path(workflows.__file__).parent.glob('*.py'):
        for group in re.findall(r'\[(@\w+(?:\s*;\s*@\w+)*)\]', path.read_text()):
            cited |= {key.strip().removeprefix('@') for key in group.split(';')}
    # the builders cite these methods by the name they have in their registry
    for room, registry in (
        ('recon.unwrap', 'UNWRAP'),
        ('recon.background', 'BACKGROUND'),
        ('recon.inversion', 'INVERSION'),
        ('anatomy.register', 'REGISTER'),
    ):
        cited |= set(getattr(import_module(f'bids_qsm.{room}'), registry))
    assert cited <= set(bibliography())


def test_page_in_a_browser(dataset, visit):
    page = visit(build_subject_report(dataset, '01'), reduced_motion='no-preference')
    pixels = picture(page)
    # text in the head, pictures further down, and contents at the side
    for part in (pixels[:300, 300:], pixels[1000:2400, 300:], pixels[:400, :260]):
        assert part.std() > 5
        assert len(np.unique(part)) > 20
    assert (weak_texts(page), unnamed(page)) == ([], [])
    # two images take turns, and stop under the pointer, with less motion and on paper
    second = page.locator('.second').first
    moving = 'one => getComputedStyle(one).animationName + " " + getComputedStyle(one).animationPlayState'
    assert second.evaluate(moving) == 'turn running'
    second.hover()
    assert second.evaluate(moving) == 'turn paused'
    page.emulate_media(reduced_motion='reduce')
    assert second.evaluate(moving).startswith('none')
    assert page.evaluate('getComputedStyle(document.documentElement).scrollBehavior') == 'auto'
    page.emulate_media(media='print')
    assert second.evaluate(moving).startswith('none')
    assert page.locator('nav').is_hidden()
    assert page.locator('table').first.is_visible()
    paper = page.pdf(format='A4')
    assert paper.count(b'/Subtype /Image') == 3  # equal ones are stored once


LESIONS = 'anat/sub-01_label-lesion_stats.tsv'
DAMAGED = {
    'cut short': ('anat/sub-01_seg-nuclei_stats.tsv', lambda data: data[:-9], 'is cut short'),
    'empty': ('anat/sub-01_seg-nuclei_stats.tsv', lambda _: b'', 'is no table'),
    'binary': ('anat/sub-01_seg-nuclei_stats.tsv', lambda _: bytes(range(256)) * 9, 'is no table'),
    'zeros': ('anat/sub-01_seg-nuclei_stats.tsv', lambda data: bytes(len(data)), 'is no table'),
    'other columns': (
        'anat/sub-01_seg-nuclei_stats.tsv',
        lambda data: data.replace(b'coverage', b'covered', 1),
        'has no column coverage',
    ),
    'text': (
        'anat/sub-01_seg-nuclei_stats.tsv',
        lambda data: data.replace(b'\t400.0\t', b'\tmuch\t', 1),
        'has text in its column volume_mm3',
    ),
    'lesions': (LESIONS, lambda _: b'odd\n1\n', 'has no column source'),
    'dictionary': (LESIONS.replace('.tsv', '.json'), lambda _: b'{"x": ', 'is not a JSON file'),
    'odd dictionary': (LESIONS.replace('.tsv', '.json'), lambda _: b'{"source": 3, "Constants": 4}', ''),
    'findings': ('figures/sub-01_desc-findings.json', lambda data: data[:40], 'is not a JSON file'),
    'other findings': (
        'figures/sub-01_desc-findings.json',
        lambda _: b'{"findings": ["x"]}',
        'holds no findings',
    ),
    'record': ('logs/sub-01.json', lambda _: b'\xff\xfe\x00', 'is not a JSON file'),
    'other record': ('logs/sub-01.json', lambda _: b'{"methods": 3}', 'is damaged (methods)'),
    'cited': ('logs/sub-01.json', lambda _: b'{"methods": ["A [@nowhere]."]}', 'is damaged (methods)'),
    'failures': ('logs/sub-01.json', lambda _: b'{"failures": [{}]}', 'is damaged (failures)'),
    'figure': ('figures/sub-01_desc-chi_map.png', lambda _: b'\x89PNG', 'is cut short'),
}


@pytest.mark.parametrize(('name', 'damage', 'said'), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named_and_left_out(tmp_path, name, damage, said):
    add_series(tmp_path, 'sub-01')
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'sub-01.json').write_text(json.dumps({'version': '1', 'methods': ['Done.']}))
    shown = application('lesions').tables[0].shown
    lesions = pd.DataFrame({column: ['n/a'] for column in shown}).assign(source='hand drawn')
    lesions.to_csv(tmp_path / 'sub-01' / LESIONS, sep='\t', index=False)
    path = tmp_path / name if 'logs' in name else tmp_path / 'sub-01' / name
    path.write_bytes(damage(path.read_bytes() if path.exists() else b''))
    troubles = []
    page = Page(build_subject_report(tmp_path, '01', troubles))
    assert [text.startswith(f'{path} {said}') for text in troubles] == [True] * bool(said)
    assert page.text.count('Damaged file') == bool(said)
    assert (f'Damaged file: {path.relative_to(tmp_path)} {said}' in page.text) == bool(said)
    # the rest stands
    assert ('Coverage is the share' in page.text) == (name != 'anat/sub-01_seg-nuclei_stats.tsv')
    assert ('hand drawn' in page.text) == (said != 'has no column source')
    assert ('Voxel size' in page.text) == ('findings' not in name)
    assert ('Done.' in page.text) == ('logs' not in name)
