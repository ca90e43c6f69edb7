"""The group level on two sites: tables, page, and what is refused."""

import pandas as pd
import pytest

from bids_qsm.errors import UserError
from bids_qsm.group.analyse import FILES, run_group
from tests.cohorts import assert_described, options, table, write_cohort
from tests.pages import Page, assert_self_contained


@pytest.fixture(scope='module')
def two_sites(tmp_path_factory):
    """A cohort of two sites, the second shifted by 0.03 ppm."""
    data, out = write_cohort(
        tmp_path_factory.mktemp('sites'), n=24, repeated=0, lesions=False, candidates=False
    )
    people = pd.read_csv(data / 'participants.tsv', sep='\t')
    people['site'] = ['Oslo', 'Oslo', 'Rome', 'Rome'] * 6
    people.to_csv(data / 'participants.tsv', sep='\t', index=False)
    for name in people.loc[people['site'] == 'Rome', 'participant_id']:
        for path in (out / name).rglob('*_stats.tsv'):
            own = table(path)
            own.loc[own['map'] == 'chi', 'mean'] += 0.03
            own.to_csv(path, sep='\t', index=False, na_rep='n/a')
    return data, out


def test_models_are_of_harmonised_values_and_the_raw_table_stays(two_sites):
    data, out = two_sites
    asked = {'model': 'chi ~ group + age', 'harmonise': 'site', 'correlate': ['dystonia:GP']}
    assert run_group(options(data, out, **asked)) == 0
    values, effects = table(out / FILES['harmonised']), table(out / FILES['sites'])
    raw = table(out / 'group_regions.tsv')
    pd.testing.assert_series_equal(values['raw'], raw['mean'], check_names=False)
    moved = (values['raw'] - values['mean'])[values['map'] == 'chi'].groupby(values['site']).mean()
    assert moved['Rome'] - moved['Oslo'] == pytest.approx(0.03, abs=0.004)
    own = effects[(effects['map'] == 'chi') & (effects['site'] == 'Rome')]
    assert (own['shift'] > 2 * own['shift_se']).mean() > 0.5
    for key in ('harmonised', 'sites'):
        assert_described(out, key)
    model = table(out / FILES['model'])
    assert set(model['term']) == {'group', 'age'}
    assert (model['dof'] == 24 - 4).all()
    correlation = table(out / FILES['correlation'])
    assert correlation['covariates'].str.contains('site').all()
    page = Page(out / 'group.html')
    assert_self_contained(page)
    assert {'sites-values-chi-nuclei', 'sites-effects-chi-nuclei'} <= set(page.ids)
    assert 'ComBat brings shifts from' in page.text


def test_a_site_that_is_the_group_is_refused(two_sites):
    data, out = two_sites
    people = pd.read_csv(data / 'participants.tsv', sep='\t')
    kept = (data / 'participants.tsv').read_bytes()
    people['scanner'] = people['group'].map({'control': 'A', 'patient': 'B'})
    people.to_csv(data / 'participants.tsv', sep='\t', index=False)
    try:
        with pytest.raises(UserError, match='all with group control are of scanner A'):
            run_group(options(data, out, harmonise='scanner'))
    finally:
        (data / 'participants.tsv').write_bytes(kept)
