import numpy as np
import pandas as pd
import pytest

from bids_qsm.anatomy import atlas
from bids_qsm.biomarkers.mars import (
    CERTAINTIES,
    mars_dictionary,
    mars_place,
    mars_regions,
    mars_table,
    physiological,
    region_of_label,
    sides,
)


@pytest.mark.parametrize(
    ('region', 'points'),
    {
        'frontal': [(30, 40, 25), (-8, 50, 10), (-20, 30, -18), (40, 5, 45)],
        'parietal': [(20, -60, 55), (-50, -35, 45), (5, -50, 50)],
        'temporal': [(55, -20, -15), (-45, 0, -35), (25, -25, -18)],
        'occipital': [(10, -85, 5), (-30, -85, 0)],
        'insula': [(37, 5, 0), (-38, -8, 5)],
        'deep': [(25, 3, 2), (-10, -18, 8), (5, 0, 22), (0, -10, -14)],
        'infratentorial': [(25, -65, -40), (0, -28, -35), (-5, -60, -25), (8, -16, -13), (-5, -18, -10)],
    }.items(),
)
def test_landmarks_lie_in_their_regions(region, points):
    assert mars_regions(np.array(points)).tolist() == [region] * len(points)


def test_every_region_of_the_built_in_atlas_has_its_part_of_the_scale():
    regions = set(atlas.labels()['region'])
    of_stem = {'SNc', 'SNr', 'RN', 'Parabrachial Pigmented', 'Ventral Tegmental Area', 'Dentate'}
    assert of_stem < regions
    said = {region: region_of_label(region) for region in regions}
    assert said == {one: 'infratentorial' if one in of_stem else 'deep' for one in regions}
    assert [region_of_label(one) for one in ('Left Dentate Gyrus', 'Intern', 'L_RN', 'GP', 'SN')] == [
        *('', '', 'infratentorial', 'deep', 'infratentorial')
    ]


def test_sides_and_places_of_physiological_calcium():
    assert sides(np.array([(-5, 0, 0), (0.5, 0, 0), (9, 0, 0)])).tolist() == ['L', 'midline', 'R']
    assert physiological(np.array([0, -30, 1])) == 'pineal'
    assert physiological(np.array([-24, -42, 12])) == 'choroid plexus'
    assert physiological(np.array([40, -60, 30])) == ''


def place(region, distance, known):
    row = {'nearest_region': region, 'region_distance_mm': distance, 'hemisphere': 'R'}
    return mars_place(row | {'template_x': -30.0, 'template_y': 40.0, 'template_z': 25.0}, known=known)


def test_a_label_that_holds_it_tells_the_region_better_than_geometry():
    assert place('Putamen', 5.0, True)['mars_region'] == 'frontal'
    found = place('Putamen', 0.0, True)
    assert (found['mars_region'], found['mars_from'], found['side']) == ('deep', 'atlas', 'R')
    lost = place('Putamen', 5.0, False)
    assert lost['mars_region'] == lost['side'] == 'not assessable'


def test_counts_by_region_side_and_certainty():
    rows = [('microbleed', 'definite', 'frontal', 'L'), ('microbleed', 'possible', 'frontal', 'L')]
    rows += [('large focus', 'definite', 'deep', 'R'), ('calcification', 'definite', 'deep', 'R')]
    candidates = pd.DataFrame(rows, columns=['class', 'certainty', 'mars_region', 'side'])
    table = mars_table(candidates).set_index(['mars_region', 'side'])
    assert table.loc[('frontal', 'L'), [*CERTAINTIES, 'total']].tolist() == [1, 1, 2]
    assert table['total'].sum() == 2
    lost = mars_table(candidates, assessable=False)
    assert lost['total'].isna().all()
    assert set(lost['assessable']) == {'not assessable'}
    assert list(lost) == list(mars_dictionary())
