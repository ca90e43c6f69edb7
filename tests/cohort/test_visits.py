import numpy as np
import pandas as pd

from bids_qsm.cohort import visits as of_people
from bids_qsm.cohort.visits import order, years


def visits(**columns):
    sessions = ['ses-1', 'ses-2', 'ses-10']
    return pd.DataFrame({'participant_id': ['sub-1'] * 3, 'session_id': sessions} | columns)


def test_years_from_acquisition_times():
    table = visits(acq_time=['2020-01-01T10:00:00', '2021-01-01T10:00:00.5', None])
    np.testing.assert_allclose(years(table), [0, 366 / 365.25, np.nan], atol=1e-6)


def test_years_from_ages_that_differ():
    np.testing.assert_allclose(years(visits(age=[30.5, 31.0, 32.5])), [0, 0.5, 2])
    assert np.isnan(years(visits(age=[30, 30, 31]))).all()
    assert np.isnan(years(visits())).all()
    # a time that only one session states tells nothing, the ages do
    table = visits(acq_time=['2020-01-01', None, None], age=[30.5, 31.0, 32.5])
    np.testing.assert_allclose(years(table), [0, 0.5, 2])


def test_order_is_that_of_time_or_label():
    shuffled = visits().iloc[[2, 0, 1]]
    assert shuffled['session_id'].iloc[order(shuffled)].tolist() == ['ses-1', 'ses-2', 'ses-10']
    timed = visits(acq_time=['2022-01-01', '2020-01-01', '2021-01-01'])
    assert order(timed).tolist() == [1, 2, 0]
    assert order(pd.DataFrame({'participant_id': ['b', 'a']})).tolist() == [1, 0]


def test_years_from_the_column_time_where_dates_are_not_known():
    np.testing.assert_allclose(years(visits(time=[0, 0.5, 1.5], age=[30, 31, 33])), [0, 0.5, 1.5])
    dated = visits(time=[0, 5, 9], acq_time=['2020-01-01', '2021-01-01', None])
    np.testing.assert_allclose(years(dated), [0, 366 / 365.25, np.nan])


def test_sessions_that_share_a_visit():
    soon = visits(acq_time=['2020-01-01', '2020-01-15', '2020-02-15'])
    number, notes = of_people.visits(soon)
    assert number.tolist() == [0, 0, 1]
    assert 'at most 14 days apart' in notes[0]
    number, notes = of_people.visits(soon.assign(visit=['a', 'b', 'b']))
    assert number.tolist() == [0, 1, 1]
    assert 'by the column visit' in notes[0]
    assert of_people.visits(visits())[0].tolist() == [0, 1, 2]
    # weekly sessions are no chain: the days count from the first of the visit
    weekly = visits(acq_time=['2020-01-01', '2020-01-11', '2020-01-21'])
    assert of_people.visits(weekly)[0].tolist() == [0, 0, 1]
    monthly = visits(acq_time=['2020-01-01', '2020-03-01', '2020-05-01'], visit=[1, 1, 1])
    assert of_people.visits(monthly)[0].tolist() == [0, 0, 1]


def test_a_visit_that_lasts_too_long_is_two():
    table = visits(acq_time=['2020-01-01', '2021-01-01', '2021-01-08'], visit=[1, 1, 1])
    number, notes = of_people.visits(table)
    assert number.tolist() == [0, 1, 1]
    assert 'more than 0.25 years apart' in notes[-1]
