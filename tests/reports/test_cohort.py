"""The cohort's page from what is on the disk."""

import json

import numpy as np
import pandas as pd
import pytest

from bids_qsm.derivatives.files import write_json
from bids_qsm.errors import UserError
from bids_qsm.group.collect import collect_tables, find_tables
from bids_qsm.reports.blocks import cell, charted_whole, grid, in_order, parts
from bids_qsm.reports.cohort import RECORD, build_cohort_report
from bids_qsm.reports.points import distribution_points
from tests.pages import Page, assert_self_contained, picture
from tests.reports.access import unnamed, weak_texts

NASTY = '<script>alert("x")</script>'
CHI = {'SN': 0.11, 'GP': 0.13, 'Dentate': 0.15}


def add_series(out, name, *, shift=0.0, atlas='nuclei', reference='csf', facts=None, findings=()):
    """Tables and findings of a series whose right dentate nucleus lies partly outside."""
    subject, _, rest = name.partition('_')
    anat = out / subject / (rest if rest.startswith('ses-') else '') / 'anat'
    anat.mkdir(parents=True, exist_ok=True)
    rows = []
    for region, chi in CHI.items():
        for side in ('L', 'R', 'both'):
            partly = (region, side) == ('Dentate', 'R')
            for map_name, mean, units in (('chi', chi + shift, 'ppm'), ('R2star', 20 + 100 * chi, '1/s')):
                row = {'region': region, 'hemisphere': side, 'map': map_name, 'sd': 0.02, 'units': units}
                row |= {'coverage': 0.625 if partly else 1.0, 'mean': np.nan if partly else mean}
                rows.append({**row, 'reference': reference if map_name == 'chi' else None})
    path = anat / f'{name}_seg-{atlas}_stats.tsv'
    pd.DataFrame(rows).to_csv(path, sep='\t', index=False, na_rep='n/a')
    figures = out / subject / 'figures'
    figures.mkdir(parents=True, exist_ok=True)
    content = {'facts': facts or {'Voxel size': '1 x 1 x 2 mm'}, 'findings': list(findings)}
    (figures / f'{name}_desc-findings.json').write_text(json.dumps(content))


def collect(out, data=None, **record):
    long, notes = collect_tables(find_tables(out), out, data or out)
    write_json(out / RECORD, {'notes': notes, **record})
    return long


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """Two subjects, one with two sessions, one who is not in participants.tsv, and one that failed."""
    out, data = tmp_path_factory.mktemp('out'), tmp_path_factory.mktemp('data')
    add_series(out, 'sub-01_ses-1')
    add_series(out, 'sub-01_ses-2', shift=0.01)
    add_series(out, 'sub-02', shift=0.02)
    (data / 'participants.tsv').write_text(f'participant_id\tgroup\tage\nsub-01\t{NASTY}\t60\n')
    failure = {'subject': '03', 'series': 'sub-03_MEGRE', 'node': 'unwrap', 'message': f'bad {NASTY}'}
    write_json(out / 'logs' / 'sub-03.json', {'version': '1.2.3', 'started': '2026', 'failures': [failure]})
    collect(out, data)
    return Page(build_cohort_report(out))


def test_page_is_self_contained_and_says_what_matters(page):
    assert_self_contained(page)
    for said in ('sub-03_MEGRE failed', 'Not in participants.tsv: sub-02', '62 % (Dentate R)', '1 x 1 x 2'):
        assert said in page.text
    assert {'sub-01.html', 'sub-02.html'} <= set(page.anchors)
    assert len(page.images) == 2
    assert all(len(image['alt']) > 10 for image in page.images)
    assert '--model, --correlate and --controls ask for more' in page.text


def test_text_of_the_dataset_is_escaped(page):
    assert page.text.count(NASTY) >= 3
    assert 'script' not in page.tags


def test_atlases_and_references_are_kept_apart(tmp_path):
    for subject, reference in (('01', 'csf'), ('02', 'brain'), ('03', 'brain')):
        facts = {'Voxel size': '1 x 1 x 2 mm', 'Echoes': subject}
        add_series(tmp_path, f'sub-{subject}_acq-qsm', facts=facts)
        add_series(
            tmp_path, f'sub-{subject}_acq-qsm', facts=facts, atlas='other', shift=0.5, reference=reference
        )
    long = collect(tmp_path)
    assert set(long['atlas']) == {'nuclei', 'other'}
    page = Page(build_cohort_report(tmp_path))
    assert_self_contained(page)
    maps = [i for i in page.ids if i.startswith('map-')]
    assert maps == ['map-chi-nuclei', 'map-R2star-nuclei', 'map-chi-other', 'map-R2star-other']
    assert '0.130 ± 0.000 (3)' in page.text
    assert '0.630 ± 0.000 (3)' in page.text
    assert '62 % (Dentate R, atlas nuclei); 62 % (Dentate R, atlas other)' in page.text
    said = (
        'Reference of χ, atlas other: the series do not have the same zero: brain (2 series), csf (1 series).'
    )
    assert said in page.text
    assert 'Reference of χ, atlas nuclei' not in page.text
    assert 'Same for all series: Voxel size: 1 x 1 x 2 mm.' in page.text
    assert page.text.count('Voxel size') == 1


def test_warnings_of_all_series_are_one_alert(tmp_path):
    finding = {'what': 'Phase sign', 'found': 'Bad sign.', 'level': 'warning'}
    for i in range(15):
        add_series(tmp_path, f'sub-{i:02d}', findings=[finding])
    collect(tmp_path)
    page = Page(build_cohort_report(tmp_path))
    assert 'Phase sign: 15 of 15 series: sub-00, sub-01' in page.text
    assert 'and 3 more.' in page.text
    assert 'no participants.tsv' in page.text
    assert 'no check raised' not in page.text


def test_an_analysis_that_could_not_be_made_is_said(tmp_path):
    add_series(tmp_path, 'sub-01')
    long = collect(tmp_path)
    assert len(long) == 18
    write_json(tmp_path / RECORD, {'notes': {'normative': ['No group is called like controls.']}})
    page = Page(build_cohort_report(tmp_path))
    assert 'This could not be done.' in page.text
    assert 'No group is called like controls.' in page.text


def test_the_page_needs_a_table(tmp_path):
    with pytest.raises(UserError, match='run the group level'):
        build_cohort_report(tmp_path)


def test_long_tables_say_that_they_are_cut():
    block = grid('T', pd.DataFrame({'n': np.arange(500)}), caption='All.')
    assert len(block['table']['rows']) == 200
    assert block['caption'] == 'The first 200 of 500 rows. All.'
    assert block['table']['numeric'] == ['n']


def test_cells():
    assert [cell('x', v) for v in (True, np.float64(-0.00012345), 12345.6, 'a', {'text': 'b'})] == [
        'yes',
        '−0.000123',
        '12346',
        'a',
        {'text': 'b'},
    ]
    assert [cell('x', v) for v in (np.nan, None, pd.NA)] == ['–'] * 3
    assert cell('p', 0.0312) == '.031'


def test_parts_are_one_atlas_and_map_each_with_known_regions_first():
    rows = [
        {'atlas': atlas, 'map': name, 'region': region, 'hemisphere': side, 'units': 'ppm'}
        for atlas in ('b', 'a')
        for name in ('R2star', 'chi')
        for region in ('Cortex', 'GP', 'SN')
        for side in ('L', 'both')
    ]
    found = list(parts(pd.DataFrame(rows)))
    assert [key for key, *_ in found] == ['chi-a', 'R2star-a', 'chi-b', 'R2star-b']
    assert found[0][1:3] == ('χ (atlas a)', 'ppm')
    assert found[0][3]['region'].tolist() == ['SN', 'GP', 'Cortex']
    assert list(parts(pd.DataFrame())) == []
    assert in_order(['Cortex', 'GP', 'SN']) == ['SN', 'GP', 'Cortex']


def test_a_chart_keeps_what_was_found_and_says_what_it_leaves_out():
    rows = pd.DataFrame({'region': [f'r{i}' for i in range(100)]})
    assert len(next(parts(rows.assign(map='chi', hemisphere='both')))[3]) == 100
    kept, cut = charted_whole(rows, ['r99', 'r40'])
    assert kept['region'].tolist() == [*(f'r{i}' for i in range(18)), 'r40', 'r99']
    assert '20 of 100 regions are drawn' in cut
    kept, _ = charted_whole(rows, [f'r{i}' for i in range(70, 100)])
    assert kept['region'].tolist() == [f'r{i}' for i in range(70, 100)]
    assert charted_whole(rows.head(20))[1] == ''


def test_a_table_of_the_distribution_has_all_regions(tmp_path):
    for i in range(2):
        add_series(tmp_path, f'sub-{i}')
        path = tmp_path / f'sub-{i}' / 'anat' / f'sub-{i}_seg-nuclei_stats.tsv'
        table = pd.read_csv(path, sep='\t')
        first = table[table['region'] == 'GP']
        more = [first.assign(region=f'area{n}') for n in range(30)]
        pd.concat([table, *more]).to_csv(path, sep='\t', index=False, na_rep='n/a')
    collect(tmp_path)
    text = Page(build_cohort_report(tmp_path)).text
    assert 'area29' in text
    assert '3 of 33 regions are drawn' in text


@pytest.fixture(scope='module')
def six(tmp_path_factory):
    """Page of six participants in two groups, of whom the last has no page."""
    out, data = tmp_path_factory.mktemp('six'), tmp_path_factory.mktemp('data')
    rows = ['participant_id\tgroup']
    for i in range(6):
        add_series(out, f'sub-{i}', shift=0.01 * i)
        rows.append(f'sub-{i}\t{"patient" if i % 2 else NASTY}')
    (data / 'participants.tsv').write_text('\n'.join(rows))
    for i in range(5):
        (out / f'sub-{i}.html').write_text(f'<title>Page of {i}</title>')
    collect(out, data)
    return build_cohort_report(out)


def test_page_in_a_browser(six, visit):
    page = visit(six)
    pixels = picture(page)
    # text in the head, pictures further down, and contents at the side
    for part in (pixels[:300, 300:], pixels[800:2000, 300:], pixels[:400, :260]):
        assert part.std() > 5
        assert len(np.unique(part)) > 20
    chart = page.locator('figure', has_text='χ by region')
    assert chart.locator('img').is_hidden()
    assert chart.locator('circle').count() > 6 * 3
    page.emulate_media(media='print')
    assert chart.locator('img').is_visible()
    assert chart.locator('svg').is_hidden()
    page.emulate_media(media='screen')
    assert (weak_texts(page), unnamed(page)) == ([], [])
    assert visit(six, java_script_enabled=False).locator('figure img').first.is_visible()


def test_points_tell_who_they_are_and_open_the_page(six, visit):
    page = visit(six)
    chart = page.locator('figure', has_text='χ by region')
    said, svg = chart.locator('output'), chart.locator('svg')
    svg.focus()
    told = []
    for key in ('ArrowRight', 'ArrowUp', 'ArrowUp', 'ArrowUp', 'ArrowRight', 'ArrowRight', 'ArrowLeft'):
        page.keyboard.press(key)
        told.append(said.inner_text())
    # the lowest of the first group, the two others, no further; the nearest of the next groups, and back
    group = f'SN, {NASTY}: χ'
    assert told[:4] == [
        f'sub-0: {group} 0.11 ppm', f'sub-2: {group} 0.13 ppm', *[f'sub-4: {group} 0.15 ppm'] * 2
    ]  # fmt: skip
    assert told[4] == 'sub-3: SN, patient: χ 0.14 ppm'
    assert told[5].startswith(('sub-0: GP', 'sub-2: GP'))
    assert told[6] == 'sub-3: SN, patient: χ 0.14 ppm'
    assert chart.locator('.tip').text_content() == 'sub-3: χ 0.14 ppm'
    page.keyboard.press('Escape')
    assert chart.locator('.tip').count() == 0
    page.keyboard.press('ArrowRight')
    for _ in range(2):
        page.keyboard.press('ArrowUp')
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Enter')
    page.wait_for_url('**/sub-3.html')
    page.go_back()
    chart.locator('a').nth(3).hover()
    assert 'patient' in said.inner_text()
    chart.locator('a').nth(3).click()
    page.wait_for_url('**/sub-1.html')
    # the last participant has no page: a point, but no link
    assert visit(six).locator('figure', has_text='χ by region').locator('a').count() == 5 * 3


def test_charts_of_many_participants_show_what_is_outside():
    n = 8000
    rng = np.random.default_rng(0)
    rows = [
        {'participant_id': f'sub-{i}', 'region': region, 'mean': rng.normal()}
        for i in range(n)
        for region in ('SN', 'GP')
    ]
    table = pd.DataFrame(rows).assign(hemisphere='both', map='chi', units='ppm')
    asked = {'map_name': 'chi', 'symbol': 'χ', 'group': None, 'regions': ['GP', 'SN'], 'statistic': 'mean'}
    many = distribution_points(table, pages=set(), **asked)
    assert many['cut']
    assert 50 < len(many['points']['value']) < 300
    assert len(many['names']) == n
    for region, _, *five in many['boxes']:
        own = table.loc[table['region'] == ('GP', 'SN')[region], 'mean']
        assert five[1:4] == pytest.approx(np.percentile(own, [25, 50, 75]), rel=1e-3)
        drawn = [
            v for r, v in zip(many['points']['region'], many['points']['value'], strict=True) if r == region
        ]
        assert len(drawn) == ((own < five[0] - 1e-3) | (own > five[4] + 1e-3)).sum()
        assert all(not five[0] <= value <= five[4] for value in drawn)
    few = distribution_points(table.head(100), pages=set(), **asked)
    assert (few['cut'], len(few['points']['value'])) == (False, 100)


def test_damaged_files_are_left_out_and_named(tmp_path):
    for i in range(4):
        add_series(tmp_path, f'sub-{i}', facts={'Matrix': '64'})
    table = next((tmp_path / 'sub-1').rglob('*_stats.tsv'))
    table.write_bytes(table.read_bytes()[:-5])
    findings = next((tmp_path / 'sub-2').rglob('*findings.json'))
    findings.write_text('{"facts": ')
    (tmp_path / 'logs').mkdir(exist_ok=True)
    (tmp_path / 'logs' / 'sub-3.json').write_text('[]')
    dictionary = next((tmp_path / 'sub-0').rglob('*_stats.tsv')).with_suffix('.json')
    dictionary.write_text('{')
    long = collect(tmp_path)
    assert sorted(long['participant_id'].unique()) == ['sub-0', 'sub-2', 'sub-3']
    text = Page(build_cohort_report(tmp_path)).text
    assert f'Left out: {table.relative_to(tmp_path)} is cut short; run the participant level again' in text
    assert f'Left out: {dictionary.relative_to(tmp_path)} is not a JSON file' in text
    assert f'{tmp_path}/' not in text
    for path in (findings, tmp_path / 'logs' / 'sub-3.json'):
        assert f'Damaged file: {path.relative_to(tmp_path)} ' in text
    for path in tmp_path.rglob('*_stats.tsv'):
        path.write_bytes(b'')
    with pytest.raises(UserError, match=r'No table of regions in .* can be read: sub-3/.* is no table'):
        collect(tmp_path)
