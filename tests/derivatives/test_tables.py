import pandas as pd

from bids_qsm.derivatives.tables import read_labels, read_table, write_table


def test_a_long_table_has_one_type_a_column(tmp_path):
    """Read in pieces, acq_time would be empty in the first and text in the last."""
    table = pd.DataFrame({'mean': 0.125, 'acq_time': ['n/a'] * 80_000 + ['2020-01-01'] * 10})
    table.to_csv(tmp_path / 'long.tsv', sep='\t', index=False)
    found = read_table(tmp_path / 'long.tsv')
    assert found['acq_time'].notna().sum() == 10
    assert found['mean'].dtype == float


def test_only_what_bids_calls_missing_is_missing(tmp_path):
    path = tmp_path / 'people.tsv'
    path.write_text('group\tregion\tage\nNone\tNA\tn/a\nnull\t\tnan\nn/a\tGP\t31.5\n')
    found = read_table(path)
    assert found['group'].tolist()[:2] == ['None', 'null']
    assert found['region'].tolist()[::2] == ['NA', 'GP']
    assert found.isna().sum().tolist() == [1, 1, 2]
    assert found['age'].dtype == float


def test_an_empty_hemisphere_of_a_label_stays_a_text(tmp_path):
    table = pd.DataFrame({'index': [1, 2], 'hemisphere': ['', 'L'], 'name': ['NA', 'pallidum']})
    found = read_labels(write_table(table, tmp_path / 'labels.tsv'))
    pd.testing.assert_frame_equal(found, table, check_dtype=False)
    assert read_labels(tmp_path / 'labels.tsv', dtype=str)['index'].tolist() == ['1', '2']
