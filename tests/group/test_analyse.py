"""The group level on made-up tables: from the files of the participant level to tables, notes and page."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bids.layout import BIDSLayout

from bids_qsm.app.options import read_toml
from bids_qsm.applications import application
from bids_qsm.errors import UserError
from bids_qsm.group import analyse as group
from bids_qsm.group.analyse import FILES, find_controls, mixed_versions, run_group
from bids_qsm.group.collect import collect_application, collect_tables, find_tables
from bids_qsm.group.map_stack import find_maps
from tests.cohorts import assert_described, options, table, write_cohort
from tests.pages import Page, assert_self_contained

TABLES = {
    kind: name
    for kind, name in FILES.items()
    if kind not in ('repeatability', 'published', 'harmonised', 'sites')
    and not kind.startswith(('classification', 'pattern', 'stage'))
}
TABLES |= {'lesions': 'group_lesions.tsv', 'candidates': 'group_candidates.tsv'}


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """A cohort with known effects after the group level with the settings that ship for NBIA."""
    data, out = write_cohort(tmp_path_factory.mktemp('cohort'), n=24, repeated=6, seed=1)
    path = Path(group.__file__).parents[2] / 'examples' / 'nbia.toml'
    if not path.exists():
        pytest.skip('not a checkout')
    assert run_group(options(data, out, **read_toml(path.read_text(), source='nbia.toml'))) == 0
    return data, out


@pytest.mark.parametrize(
    ('platform', 'functions', 'expected'),
    [('linux', ['malloc_trim'], [0]), ('linux', [], []), ('darwin', ['malloc_trim'], [])],
)
def test_memory_of_tables_is_given_back_where_there_is_a_call_for_it(
    monkeypatch, platform, functions, expected
):
    asked = []
    library = SimpleNamespace(**dict.fromkeys(functions, asked.append))
    monkeypatch.setattr(group.sys, 'platform', platform)
    monkeypatch.setattr(group.ctypes, 'CDLL', lambda _: library)
    group._return_memory()
    assert asked == expected


def test_no_table_has_entities():
    assert not [name for name in FILES.values() if '-' in name]


def test_every_table_has_a_dictionary_of_all_its_columns(ran):
    _, out = ran
    for key in TABLES.keys() & FILES.keys():
        assert_described(out, key)
    for name in ('group_lesions.tsv', 'group_candidates.tsv', 'group_regions.tsv'):
        described = json.loads((out / name).with_suffix('.json').read_text())
        assert list(described) == list(table(out / name).columns)
        assert all(len(entry['Description']) > 3 for entry in described.values()), name
    assert not list(out.rglob('.*'))


def test_known_effects_are_found(ran):
    _, out = ran
    model = table(out / TABLES['model'])
    effect = model[(model['term'] == 'group') & (model['hemisphere'] == 'both')].set_index('region')
    assert set(effect.index[effect['p_fdr'] < 0.05]) == {'GP', 'SN'}
    assert effect.loc['SN', 'ci_low'] < 0.05 < effect.loc['SN', 'ci_high']
    difference = table(out / TABLES['difference'])
    chi = difference[(difference['map'] == 'chi') & (difference['hemisphere'] == 'both')].set_index('column')
    assert (chi['difference'] > 0).all()
    assert chi.loc['dystonia', 'region_a'] == 'GP'
    assert chi.loc['parkinsonism', 'region_a'] == 'SN'
    change = table(out / TABLES['change'])
    own = change[(change['region'] == 'GP') & (change['hemisphere'] == 'both') & (change['map'] == 'chi')]
    assert own['participant_id'].nunique() == 6
    assert own['per_year'].mean() == pytest.approx(-0.02, abs=0.004)
    scores = table(out / TABLES['normative'])
    gp = scores[(scores['region'] == 'SN') & (scores['hemisphere'] == 'both') & (scores['map'] == 'chi')]
    z = gp.groupby('is_control')['z'].mean()
    assert z[False] > 2 > abs(z[True])


def test_lesions_and_candidates_are_gathered(ran):
    _, out = ran
    lesions, candidates = table(out / TABLES['lesions']), table(out / TABLES['candidates'])
    assert list(lesions)[:2] == ['participant_id', 'session_id']
    assert 'label' not in lesions
    assert {'the mask is empty'} <= set(lesions['reason'].dropna())
    assert set(candidates['class']) == {'microbleed', 'calcification'}
    # lesions are not regions
    assert 'lesion' not in set(table(out / 'group_regions.tsv')['region'])


def test_the_record_says_what_was_asked_and_left_out(ran):
    _, out = ran
    record = json.loads((out / 'logs' / 'group.json').read_text())
    assert record['asked']['covariates'] == ['group', 'age', 'sex']
    assert record['asked']['controls'] == 'control'
    assert record['files'] == TABLES
    assert any(', as the mask is empty' in note for note in record['notes']['lesions'])


def test_the_page_answers_the_question(ran):
    _, out = ran
    page = Page(out / 'group.html')
    assert_self_contained(page)
    short = page.in_short
    for said in (
        'chi ~ group + age + sex',
        'χ, group (patient - control): an effect on 2 of 7 regions',
        'dystonia and χ of GP: r = 0.',
        'dystonia goes more with GP',
        'χ of GP changed by more than repetition explains in 6 of 6 participants',
        'Lesion masks of 12 participants',
        'found by the computer and not confirmed',
    ):
        assert said in short, said
    assert len(page.images) == len([i for i in page.ids if i.startswith(tuple('mcrsnzl')) and '-' in i])


def test_what_an_earlier_run_left_is_removed(ran):
    data, out = ran
    kept = {path: path.read_bytes() for path in out.glob('group*') if path.is_file()}
    kept |= {path: path.read_bytes() for path in (*out.glob('group/*'), out / 'logs' / 'group.json')}
    try:
        run_group(options(data, out, participant_label=['001', '003', '005', '007'], session_label=['1']))
        assert set(table(out / 'group_regions.tsv')['participant_id']) == {f'sub-00{i}' for i in (1, 3, 5, 7)}
        assert [name for name in TABLES if (out / TABLES[name]).exists()] == ['normative', 'candidates']
        page = Page(out / 'group.html')
        assert 'id="model"' not in (out / 'group.html').read_text()
        assert_self_contained(page)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


@pytest.fixture
def small(tmp_path):
    return write_cohort(tmp_path, n=6, repeated=1, lesions=False, candidates=False)


def test_results_of_several_versions_are_warned_of(tmp_path):
    every = [{'sub': str(i), 'seg': 'nuclei'} for i in range(3)]
    assert mixed_versions(tmp_path, every) == []
    runs = [{'id': 'a', 'version': '1.0.0'}, {'id': 'b', 'version': '1.1.0'}]
    series = {f'sub-{i}': {'state': 'done', 'run': run} for i, run in enumerate('aab')}
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'run.json').write_text(json.dumps({'runs': runs, 'series': series, 'subjects': {}}))
    (said,) = mixed_versions(tmp_path, every)
    assert '2 series by 1.0.0 (as sub-0), 1 series by 1.1.0 (as sub-2)' in said
    # participants whom --participant-label leaves out
    assert mixed_versions(tmp_path, every[:2]) == []


def test_sessions_and_scans_are_joined(small):
    data, out = small
    scans = data / 'sub-001' / 'ses-1' / 'sub-001_ses-1_scans.tsv'
    scans.parent.mkdir()
    scans.write_text(
        'filename\tacq_time\nanat/sub-001_ses-1_echo-1_part-mag_MEGRE.nii.gz\t2019-05-05T09:00:00\n'
    )
    long, notes = collect_tables(find_tables(out), out, data)
    assert 'Not in sessions.tsv' not in ' '.join(notes['sessions'])
    times = long.dropna(subset=['acq_time']).groupby('participant_id')['acq_time'].unique()
    assert times['sub-001'].tolist() == ['2019-05-05T09:00:00']
    assert sorted(times['sub-002']) == ['2020-01-01T10:00:00', '2022-01-01T10:00:00']
    described = json.loads((out / 'group_regions.json').read_text())
    assert described['age'] == {'Description': 'Age.', 'Units': 'year'}
    assert 'acquired' in described['acq_time']['Description']


def test_no_dictionary_describes_the_table_of_another(small):
    """As pybids reads them: all tables of its suffix in its folder and below inherit a dictionary."""
    data, out = small
    for path in [*out.glob('sub-001/ses-1/anat/*_stats.*')]:
        path.rename(path.with_name(path.name.replace('_seg-', '_acq-fast_run-1_seg-')))
    run_group(options(data, out, model='chi ~ group', correlate=['dystonia:GP', 'dystonia:SN']))
    (out / 'dataset_description.json').write_text(
        '{"Name": "q", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "q"}]}'
    )
    layout = BIDSLayout(out, validate=False, config=['bids', 'derivatives'])
    tables = layout.get(extension='.tsv')
    assert len(tables) > 10
    for one in tables:
        own = json.loads(Path(one.path).with_suffix('.json').read_text())
        assert one.get_metadata() == own, one.relpath


def test_the_maps_of_all_tables_are_described(small):
    data, out = small
    path = min(out.rglob('*_seg-*_stats.tsv'))
    rows = table(path).head(1).assign(map='Yv')
    own = path.parent / f'{path.name.partition("_seg-")[0]}_desc-veindensity_stats.tsv'
    rows.to_csv(own, sep='\t', index=False, na_rep='n/a')
    own.with_suffix('.json').write_text('{"map": {"Description": "What the row is about. Yv: oxygen."}}')
    path.with_suffix('.json').write_text('{"map": {"Description": "chi or R2star."}}')
    collect_tables(find_tables(out), out, data)
    described = json.loads((out / 'group_regions.json').read_text())
    assert described['map']['Description'] == 'chi or R2star. What the row is about. Yv: oxygen.'


def test_half_written_files_are_passed_over(small):
    data, out = small
    whole, _ = collect_tables(find_tables(out), out, data)
    table = next(out.rglob('*_stats.tsv'))
    table.with_name(f'.1a2b3c4d-{table.name}').write_text('region\tmean\nGP\t')
    table.with_name(f'.1a2b3c4d-{table.name[:6]}_space-x_Chimap.nii.gz').touch()
    partial, _ = collect_tables(find_tables(out), out, data)
    assert partial.equals(whole)
    assert find_maps(out, 'Chimap', None, '', []) == ('', {})


def test_lesions_of_nobody(small):
    _, out = small
    notes = {'lesions': []}
    lesions = application('lesions')
    assert collect_application(lesions, lesions.tables[0], find_tables(out)['lesions'], notes)[0].empty
    assert notes == {'lesions': []}


@pytest.mark.parametrize(
    ('names', 'found'),
    [
        (('HC', 'PKAN'), 'HC'),
        (('a', 'Healthy Controls'), 'Healthy Controls'),
        (('PD', 'PSP'), None),
        ((), None),
    ],
)
def test_controls_are_known_by_their_name(names, found):
    long = pd.DataFrame({'participant_id': list(names), 'group': list(names)})
    assert find_controls(long) == found


def test_a_cohort_that_answers_nothing_still_has_a_page(small):
    """One group of one subject each way, constant and missing columns: said, no warning, no traceback."""
    data, out = small
    people = table(data / 'participants.tsv')
    people['group'] = ['patient', *['control'] * 5]
    people['sex'] = 'F'
    people['score'] = [1.0, *[np.nan] * 5]
    people['age'] = [*people['age'][:5], 'old']
    people.to_csv(data / 'participants.tsv', sep='\t', index=False, na_rep='n/a')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        run_group(options(data, out, model='chi ~ group + age + sex', correlate=['score:GP']))
    notes = json.loads((out / 'logs' / 'group.json').read_text())['notes']
    said = ' '.join(notes['model'])
    for part in ("group 'patient' has one participant", 'sex is constant', 'old'):
        assert part in said
    page = Page(out / 'group.html')
    assert_self_contained(page)
    assert 'score and χ of GP: could not be tested.' in page.text
    assert 'sex is constant' in page.text


def test_terms_of_many_levels_and_curves_are_tables(tmp_path):
    data, out = write_cohort(tmp_path, n=30, repeated=0, lesions=False, candidates=False)
    people = table(data / 'participants.tsv')
    people['site'] = [f'<i>{i // 2 % 6}' for i in range(30)]
    people.to_csv(data / 'participants.tsv', sep='\t', index=False, na_rep='n/a')
    run_group(options(data, out, model='chi ~ group + cr(age, df=3) + site'))
    page = Page(out / 'group.html')
    assert_self_contained(page)
    assert 'χ, cr(age, df=3) as a whole: an effect on' in page.text
    assert 'χ, site as a whole: an effect on 0 of 7 regions' in page.text
    forests = [i for i in page.ids if i.startswith('model-')]
    assert forests == ['model-chi-nuclei-0-0']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'model': 'chi ~ nosuch'}, 'nosuch'),
        ({'model': 'chi ~ __import__("os")'}, 'formula'),
        ({'model': 'T1 ~ age'}, 'no map'),
        ({'correlate': ['nosuch:GP']}, "'nosuch' that could be used; there are group, age, sex, dystonia"),
        ({'correlate': ['dystonia:GPP']}, "region 'GPP'; there are SN, GP, RN"),
        ({'correlate': ['mean:GP']}, "no column 'mean'"),
        ({'correlate': ['group:GP']}, 'holds text'),
        ({'relative_to': 'Cerebellum'}, 'Cerebellum'),
        ({'controls': 'martian'}, 'martian'),
        ({'statistic': 'mean_pv'}, 'mean_pv'),
        (
            {'statistic': 'mean_weighted'},
            'mean_weighted: no table has it .it needs .*; there are mean, median',
        ),
        ({'voxelwise': 'fdr'}, '--model'),
        ({'participant_label': ['99']}, 'no tables of regions'),
    ],
)
def test_wrong_questions_are_one_sentence(small, settings, message):
    data, out = small
    with pytest.raises(UserError, match=message):
        run_group(options(data, out, **settings))


@pytest.mark.parametrize('text', ['', 'a\tb\n1\t2\t3\n', 'a\tb\n1\t2\n1\t2\t3\n'])
def test_a_broken_table_is_named(small, text):
    data, out = small
    (data / 'participants.tsv').write_text(text)
    with pytest.raises(UserError, match=r'participants\.tsv is no table'):
        collect_tables(find_tables(out), out, data)


def test_a_table_of_an_older_version_is_named(small):
    """Its mean is that of the core."""
    data, out = small
    path = sorted(out.rglob('*_seg-nuclei_stats.tsv'))[3]
    table = pd.read_csv(path, sep='\t').assign(core='eroded')
    table.to_csv(path, sep='\t', index=False, na_rep='n/a')
    with pytest.raises(
        UserError, match=f'{path.name} was written by an older version.*participant level again'
    ):
        run_group(options(data, out))
    table.assign(core_mean=0.1).to_csv(path, sep='\t', index=False, na_rep='n/a')
    assert run_group(options(data, out)) == 0


def test_a_statistic_without_values_is_said(small):
    data, out = small
    for path in out.rglob('*_seg-nuclei_stats.tsv'):
        table = pd.read_csv(path, sep='\t').assign(mean_weighted=np.nan, core_mean=0.1)
        table.to_csv(path, sep='\t', index=False, na_rep='n/a')
    with pytest.raises(UserError, match='there are mean, median, core_mean'):
        run_group(options(data, out, model='chi ~ age', statistic='mean_weighted'))
    assert run_group(options(data, out, model='chi ~ age', statistic='core_mean')) == 0


def test_a_wrong_correlation_is_said_before_anything_is_computed(small, monkeypatch):
    data, out = small
    monkeypatch.setattr('bids_qsm.cohort.model.fit_models', None)
    with pytest.raises(UserError, match='region'):
        run_group(options(data, out, model='chi ~ age', correlate=['age:nosuch']))


@pytest.mark.parametrize('name', ['participants.json', 'sub-002/sub-002_sessions.json'])
def test_a_broken_dictionary_is_named(small, name):
    data, out = small
    (data / name).write_text('{"age": {')
    with pytest.raises(UserError, match=name.rpartition('/')[2]):
        run_group(options(data, out))
    (data / name).write_bytes(b'\xef\xbb\xbf{"age": {"Units": "year"}}')
    assert run_group(options(data, out)) == 0


def test_groups_and_regions_may_be_called_none_and_na(small):
    data, out = small
    people = table(data / 'participants.tsv')
    people['group'] = ['None', 'patient'] * 3
    people.to_csv(data / 'participants.tsv', sep='\t', index=False, na_rep='n/a')
    for path in out.rglob('*_stats.tsv'):
        path.write_text(path.read_text().replace('Thalamus\t', 'NA\t'))
    run_group(options(data, out, model='chi ~ group', correlate=['dystonia:NA']))
    model = pd.read_csv(out / TABLES['model'], sep='\t', keep_default_na=False, na_values=['n/a'])
    assert 'NA' in set(model['region'])
    assert set(model['level'].dropna()) == {'patient - None'}
    page = Page(out / 'group.html')
    assert 'dystonia and χ of NA: r = ' in page.text


@pytest.mark.parametrize('kept', [None, ['participant_id'], ['participant_id', 'group', 'sex']])
def test_what_is_not_known_of_the_participants_is_said(tmp_path, kept):
    """No participants.tsv, or none with a number; one session each: a page all the same."""
    data, out = write_cohort(tmp_path, n=6, repeated=0, lesions=False, candidates=False)
    path = data / 'participants.tsv'
    if kept is None:
        path.unlink()
    else:
        table(path)[kept].to_csv(path, sep='\t', index=False)
    assert run_group(options(data, out)) == 0
    page = Page(out / 'group.html')
    assert_self_contained(page)
    assert ('no participants.tsv' in page.text) == (kept is None)
    assert not (out / TABLES['change']).exists()
    with pytest.raises(UserError, match='dystonia'):
        run_group(options(data, out, correlate=['dystonia:GP']))
    for settings in ({'model': 'chi ~ age'}, {'model': 'chi ~ group + age'}):
        with pytest.raises(UserError, match=r'age|group'):
            run_group(options(data, out, **settings))
    if kept is None:
        with pytest.raises(UserError, match=r'controls|group'):
            run_group(options(data, out, controls='control'))


def test_reference_is_changed_for_all_analyses(small):
    data, out = small
    run_group(options(data, out, model='chi ~ age', relative_to='CSF'))
    page = Page(out / 'group.html')
    assert 'χ relative toCSF' in page.text
    assert 'Susceptibility is relative to CSF of the same series.' in page.text
    whole = table(out / 'group_regions.tsv')
    assert set(whole.loc[whole['map'] == 'chi', 'reference']) == {'brain'}, 'as it was measured'
    model = table(out / TABLES['model'])
    assert 'CSF' not in set(model.loc[model['hemisphere'] == 'both', 'region'])


def test_images_are_asked_for_and_shown(small, monkeypatch):
    data, out = small
    asked = []

    def voxelwise(_, people, formula, **settings):
        asked.append((formula, settings, len(people)))
        frame = pd.DataFrame({'x (mm)': [1.0], 'p': [0.0001]})
        figures = [
            ('Thresholded effect.', b'\x89PNG...'),
            ('Mean.', b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ]
        return {
            'title': 'Voxelwise <b>',
            'figures': figures,
            'tables': [('Clusters', frame)],
            'notes': ['Few.'],
        }

    def template(_, **settings):
        asked.append(settings)
        return {'title': 'Study template', 'figures': [], 'tables': [], 'notes': ['One subject left out.']}

    import sys

    module = SimpleNamespace(run_voxelwise=voxelwise, run_study_template=template)
    monkeypatch.setitem(sys.modules, 'bids_qsm.group.images', module)
    run_group(
        options(
            data, out, model='chi ~ age', voxelwise='permutation', smoothing_mm=4.0, study_template=2,
            relative_to='CSF',
        )
    )  # fmt: skip
    assert asked[0][0] == 'chi ~ age'
    settings = {'method': 'permutation', 'smoothing_mm': 4.0, 'controls': 'control', 'relative_to': 'CSF'}
    assert asked[0][1] == settings
    assert asked[1]['iterations'] == 2
    page = Page(out / 'group.html')
    assert_self_contained(page)
    for said in (
        'Voxelwise <b>',
        'Thresholded effect.',
        'Clusters',
        '< .001',
        'Few.',
        'One subject left out.',
        '--relative-to does not shift them',
    ):
        assert said in page.text
    assert 'b' not in page.tags


def test_words_of_one_meaning_are_one_level(tmp_path):
    data, out = write_cohort(tmp_path, n=6, repeated=0, lesions=False, candidates=False)
    path = data / 'participants.tsv'
    people = table(path)
    people['group'] = ['control ', ' patient', 'control', 'patient', 'Control', 'n/a ']
    people['sex'] = ['M', 'm', 'male ', 'F', 'female', 'M']
    people.rename(columns={'sex': 'sex '}).to_csv(path, sep='\t', index=False)
    long, notes = collect_tables(find_tables(out), out, data)
    found = long.drop_duplicates('participant_id')
    assert found['sex'].tolist() == ['M', 'M', 'M', *[found['sex'].iloc[3]] * 2, 'M']
    assert found['group'].tolist()[:5] == ['control', 'patient', 'control', 'patient', 'Control']
    assert found['group'].isna().tolist() == [False] * 5 + [True]
    said = ' '.join(notes['tables'])
    assert 'group has levels that differ in case only (Control, control)' in said
    assert 'In sex, ' in said
