"""The application of oximetry: from maps and the tables of veins to rows, a map and constants."""

import numpy as np
import pandas as pd
import pytest

from bids_qsm.applications import oximetry, qbold
from bids_qsm.applications.oximetry import APPLICATION, _sampling_fact, _warning, measure
from bids_qsm.biomarkers import oxygen as ox
from bids_qsm.biomarkers.oximetry import VeinMeasure
from bids_qsm.biomarkers.oximetry_pieces import sampling_of
from bids_qsm.biomarkers.oximetry_sampling import KSpace
from bids_qsm.biomarkers.veins_table import line_table
from bids_qsm.errors import UserError
from bids_qsm.recon.grid import Grid
from tests.biomarkers.test_oximetry import acquired

HCT, YV = 0.42, 0.65


@pytest.fixture(scope='module')
def data():
    """What `measure` gets: one straight sinus in white matter, flow, a label, haematocrit in per cent."""
    scan, veins, tissue = acquired(diameter=3.0)
    shape = scan.mask.shape
    dseg = np.zeros(shape, np.int32)
    dseg[:8] = 1
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = veins.segments[0].points[0] - veins.segments[0].voxels[0]
    return {
        'chi': scan.chi,
        'localfield': scan.localfield,
        'magnitude': scan.magnitude,
        'mask': scan.mask,
        'r2star': None,
        'residual': scan.residual,
        'veins_share': veins.share,
        'veins_segments': veins.numbers,
        'veins_veinlines': line_table(veins.segments),
        'veins_table': pd.DataFrame({'segment': [1], 'label': ['straight_sinus'], 'outside_mask': [0]}),
        'perfusion': np.full(shape, 60.0, np.float32),
        'dseg': dseg,
        'labels': pd.DataFrame({'index': [1], 'region': ['Putamen'], 'hemisphere': ['L']}),
        'white_matter': None,
        'affine': affine,
        'grid': scan.grid,
        'echo_times': list(scan.echo_times),
        'field_strength': scan.field_strength,
        'participant': {'hematocrit': 42.0, 'sao2': None},
        'tissue': tissue,
    }


@pytest.fixture(scope='module', autouse=True)
def _fitted_once():
    """The fit of the same veins, on which blood and constants have no part, is done once."""
    fitted, kept = oximetry.measure_veins, {}

    def remembered(scan, veins, **more):
        key = (len(veins.segments), float(veins.share.sum()), int(scan.mask.sum()), *more.items())
        if key not in kept:
            kept[key] = fitted(scan, veins, **more)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oximetry, 'measure_veins', remembered)
        yield


def run(data, **params):
    return dict(
        zip(APPLICATION.gives, measure(*(data[n] for n in APPLICATION.arguments), **params), strict=True)
    )


@pytest.fixture(scope='module')
def usual(data):
    return run(data)


def test_from_maps_to_tables(data, usual):
    found = usual
    row = found['table'].iloc[0]
    assert row['name'] == 'straight_sinus'
    # no fluid is in the block: the tissue, white matter of -0.03 ppm, was taken as water
    lower = YV + data['tissue'] / (HCT * ox.Constants().dchi_do)
    assert row['Yv'] == pytest.approx(lower, abs=0.015)
    assert 'taken as water' in found['facts']['reference']['source']
    assert found['facts']['hematocrit'] == {
        'value': 0.42,
        'standard_deviation': ox.MEASURED_SD['hct'],
        'units': 'fraction',
        'source': 'measured (column hematocrit)',
    }
    assert found['facts']['sao2']['source'] == 'assumed'
    inside = found['saturation'] > 0
    assert inside.sum() == (data['veins_share'] >= 0.5).sum()
    np.testing.assert_allclose(found['saturation'][inside], row['Yv'], rtol=1e-6)
    # 0.60 to 0.70
    assert set(np.unique(found['saturationlevels'])) == {0, 3}
    assert (found['saturationlevels'] > 0).sum() == inside.sum()
    rows = found['oximetrysummary'].set_index(['region', 'hemisphere', 'map'])
    content = ox.oxygen_content(0.42 * 33.5, 0.98, ox.Constants())
    assert rows.loc['Putamen', 'L', 'CMRO2']['mean'] == pytest.approx(60 * row['OEF'] * content, rel=1e-5)
    # the chart
    chart = APPLICATION.figures[0].draw(found['table'])
    assert 'straight sinus 1' in chart
    assert 'No vein could be used' in APPLICATION.figures[0].draw(found['table'].assign(usable=False))


def test_constants_can_be_set(data, usual):
    unknown = {**data, 'participant': {}}
    older = run(unknown, dchi_do=0.18, hematocrit=38)
    ratio = (1 - older['table']['Yv'][0]) / (1 - usual['table']['Yv'][0])
    assert ratio == pytest.approx(0.27 / 0.18 * 0.42 / 0.38, rel=1e-6)
    assert older['facts']['dchi_do']['source'] == 'set by the user'
    assert older['facts']['hematocrit']['source'] == 'option'
    with pytest.raises(UserError, match='hematocrit 5 is not plausible'):
        run(data, hematocrit=5)
    # what a table states goes before what is set for all
    none = {'veins_veinlines': data['veins_veinlines'].iloc[:0], 'veins_table': data['veins_table'].iloc[:0]}
    stated = run({**data, **none}, hematocrit=38)
    assert stated['facts']['hematocrit'] == usual['facts']['hematocrit']


def test_without_veins_nothing_is_made_up(data):
    none = {**data, 'veins_veinlines': data['veins_veinlines'].iloc[:0], 'perfusion': None}
    found = run({**none, 'veins_table': data['veins_table'].iloc[:0]})
    assert found['table'].empty
    assert not found['saturation'].any()
    assert found['oximetrysummary']['mean'].isna().all()
    assert found['oximetrysensitivity']['OEF'].isna().all()
    # outside the mask there is no susceptibility to measure
    outside = run({**data, 'veins_table': data['veins_table'].assign(outside_mask=1)})
    assert outside['table'].empty


def test_blood_outside_the_mask_does_not_count(data, monkeypatch):
    """Its field was removed with that of the background."""
    seen = []

    def quick(_, veins, **__):
        seen.append(veins)
        return [VeinMeasure(veins.segments[0], 'chi', '', 0.4, 0.01, 0.01, -0.03, 0.002)]

    monkeypatch.setattr(oximetry, 'measure_veins', quick)
    mask = data['mask'].copy()
    mask[:, :, :2] = False
    share, numbers = data['veins_share'].copy(), data['veins_segments'].copy()
    share[:, :, :2], numbers[:, :, :2] = 1, 1
    found = run({**data, 'mask': mask, 'veins_share': share, 'veins_segments': numbers})
    assert found['table']['usable'].all()
    assert not found['saturation'][~mask].any()
    assert found['saturation'][mask].any()
    assert np.array_equal(seen[0].share, share * mask)


def test_blood_that_cannot_be_is_refused_before_anything_runs():
    for row in ({'hematocrit': 999.0}, {'hematocrit': '42,5'}, {'hemoglobin': 8.7}):
        with pytest.raises(UserError):
            APPLICATION.check(row, {})
    with pytest.raises(UserError, match='hematocrit 5 is not plausible'):
        APPLICATION.check({}, {'hematocrit': 5.0})
    APPLICATION.check({'hematocrit': 42.0}, {'hematocrit': 0.4})


def test_tissue_has_the_blood_and_constants_of_veins(data):
    """Through a table as it is written, so that they cannot differ."""
    veins = run({**data, 'participant': {}}, dchi_do=0.18, hematocrit=0.36, oxy_term=True)
    shape = data['mask'].shape
    rng = np.random.default_rng(0)
    given = {
        **data,
        'echoes': np.exp(-15 * np.array([4e-3, 8e-3, 12e-3, 16e-3])) * rng.uniform(0.9, 1.1, (*shape, 1)),
        'echo_times': [4e-3, 8e-3, 12e-3, 16e-3],
        'r2star': np.full(shape, 15.0, np.float32),
        'oximetry_oximetrysummary': veins['oximetrysummary'],
        'oximetry_oximetryconstants': veins['oximetryconstants'],
    }
    arguments = (given[name] for name in qbold.APPLICATION.arguments)
    _, table, facts = qbold.measure(*arguments, clusters=2)
    for name in ('hematocrit', 'sao2', 'dchi_do', 'dchi_oxy'):
        assert facts[name]['value'] == veins['facts'][name]['value']
        assert facts[name]['source'] == veins['facts'][name]['source']
    # no fluid is there: said, and counted
    assert 'taken as water' in facts['reference']['source']
    assert facts['error_of_susceptibility']['value'] == 0.02
    assert facts['prior_chi']['value'] == -0.02
    assert np.isfinite(table['mean'][0])


def test_thin_veins_in_coarse_voxels_are_warned_of():
    table = pd.DataFrame(
        {
            'usable': [True, True, False, True],
            'method': ['field', 'chi', 'field', 'field'],
            'diameter_mm': [2.0, 2.0, 2.0, 2.5],
        }
    )
    warned = _warning(table, Grid((4, 4, 4), (1.0, 1.0, 1.5)))
    assert [bool(one) for one in warned] == [True, False, False, False]
    assert not any(_warning(table, Grid((4, 4, 4), (1.2, 1.2, 1.2))))


def test_the_sampling_that_no_vein_told_is_said_to_be_assumed():
    assert sampling_of(None, None, [], None) == KSpace()

    def source(sampling):
        facts = _sampling_fact([VeinMeasure(None, 'field', '', n_pieces=1, sampling=sampling)])
        return {one['source'] for one in facts.values()}

    assert source(KSpace()) == {'assumed'}
    assert source(KSpace(0.5, 0.02)) == source(None) == {'fit of the longest veins'}
