import numpy as np
import pandas as pd

from bids_qsm.cohort.total import add_total, disagreement


def test_total_is_mean_times_volume():
    long = pd.DataFrame(
        {
            'participant_id': 'sub-1',
            'region': ['GP', 'GP', 'CSF', 'SN', 'RN'],
            'hemisphere': 'both',
            'map': ['chi', 'R2star', 'chi', 'chi', 'chi'],
            'mean': [0.15, 30.0, 0.01, 0.1, np.nan],
            'se': 0.001,
            'p5': 0.02,
            'mean_positive': 0.2,
            'volume_mm3': [3000.0, 3000.0, 2e4, 900.0, 500.0],
            'coverage': [1.0, 1.0, 1.0, 0.8, 1.0],
            'units': ['ppm', '1/s', 'ppm', 'ppm', 'ppm'],
        }
    )
    found = add_total(long)
    assert len(found) == 9
    rows = found.set_index(['map', 'region'])
    np.testing.assert_allclose(rows.loc[('chi_total', 'GP'), 'mean'], 450.0)
    np.testing.assert_allclose(rows.loc[('volume', 'GP'), 'mean'], 3.0)
    assert list(found['units'].tail(4)) == ['ppb ml', 'ppb ml', 'ml', 'ml']
    assert found[['se', 'p5']].tail(4).isna().all(axis=None)
    np.testing.assert_allclose(rows.loc[('chi_total', 'GP'), 'mean_positive'], 600.0)
    # what was not measured has no volume either
    assert rows.loc[[('chi_total', 'RN'), ('volume', 'RN')], 'mean'].isna().all()
    assert len(add_total(long.drop(columns='volume_mm3'))) == 5


def test_mean_and_total_that_do_not_agree_are_told():
    changes = {
        'a': ((2, 1, 3), (-50, -60, -40), 'opposite'),
        'b': ((2, 1, 3), (5, -5, 15), 'mean only'),
        'c': ((0, -1, 1), (-50, -60, -40), 'total only'),
        'd': ((2, 1, 3), (50, 40, 60), 'both rise'),
        'e': ((-2, -3, -1), (-50, -60, -40), 'both fall'),
        'f': ((0, -1, 1), (0, -5, 5), 'neither changes'),
    }
    rows = []
    for region, (mean, total, _) in changes.items():
        for name, value in (('chi', mean), ('chi_total', total), ('volume', (-0.1, -0.2, 0.0))):
            rows.append((None, name, region, 'both', 'x', *value))
    columns = ['atlas', 'map', 'region', 'hemisphere', 'arm', 'slope', 'low', 'high']
    found = disagreement(pd.DataFrame(rows, columns=columns), 'arm', 'slope', 'low', 'high')
    assert dict(zip(found['region'], found['verdict'], strict=True)) == {r: c[2] for r, c in changes.items()}
    assert (found['volume'] == -0.1).all()
