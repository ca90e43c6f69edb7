import pandas as pd
import pytest

from bids_qsm.derivatives import tables
from bids_qsm.derivatives.tables import (
    Expected,
    read_labels,
    read_many,
    read_output,
    read_parquet,
    read_table,
    write_parquet,
    write_table,
)
from bids_qsm.errors import UserError


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


def test_many_tables_at_once_are_as_one_after_another(tmp_path):
    texts = ['a\tb\n1\tx\n2\tn/a\n', 'a\tb\n3\ty\n', 'a\tc\n4\t5.5\n', 'a\tb\n', 'a\tb\nn/a\tz\n']
    paths = [tmp_path / f'{i}.tsv' for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    found = list(read_many(paths, Expected()))
    assert [len(one) for one in found] == [2, 1, 1, 0, 1]
    for path, one in zip(paths, found, strict=True):
        pd.testing.assert_frame_equal(one, read_table(path), check_dtype=False)


def test_damage_of_one_of_many_tables_is_said_of_it_alone(tmp_path):
    texts = {
        'good': b'a\tb\n1\tx\n',
        'cut': b'a\tb\n2\ty\n3',
        'odd': b'a\tb\nmuch\tx\n',
        'wide': b'a\tb\n1\tx\tz\n',
        'other': b'c\n1\n',
        'binary': b'a\tb\n\xff\n',
        'last': b'a\tb\nn/a\tx\n',
    }
    for name, text in texts.items():
        (tmp_path / f'{name}.tsv').write_bytes(text)
    paths = [tmp_path / f'{name}.tsv' for name in texts]
    found = [*read_many(paths, Expected(('a',), any_of=('b', 'd'), numbers=('a',)))]
    assert [*map(len, (found[0], found[-1]))] == [1, 1]
    said = ['is cut short', 'has text in its column a', 'is no table', 'has no column a', 'is no table']
    for path, one, fault in zip(paths[1:-1], found[1:-1], said, strict=True):
        assert isinstance(one, UserError)
        assert str(one).startswith(f'{path} {fault}')
    with pytest.raises(UserError, match='has no column b'):
        read_output(tmp_path / 'other.tsv', Expected(any_of=('b', 'd')))


def test_a_line_in_quotes_does_not_shift_rows(tmp_path):
    for i in range(2):
        (tmp_path / f'{i}.tsv').write_text(f'a\tb\n{i}\t"two\nlines"\n')
    found = list(read_many([tmp_path / '0.tsv', tmp_path / '1.tsv'], Expected()))
    assert [one['a'].tolist() for one in found] == [[0], [1]]


@pytest.fixture(params=[100, 2], ids=['whole', 'in pieces'])
def rows(request, monkeypatch):
    """Rows that are turned into Parquet at once."""
    monkeypatch.setattr(tables, '_ROWS', request.param)


@pytest.mark.usefixtures('rows')
def test_parquet_has_the_same_values(tmp_path):
    table = pd.DataFrame(
        {
            'name': ['x', None, 'y'],
            'n': pd.array([1, None, 2], 'Int64'),
            'is_it': [True, False, True],
            'mixed': [1, 'q', None],
            'v': [1.5, None, 2],
        }
    )
    write_parquet(table, tmp_path / 't.parquet')
    found = read_parquet(tmp_path / 't.parquet')
    assert found['mixed'].tolist()[:2] == ['1', 'q']
    assert found['name'].isna().tolist() == [False, True, False]
    for column in ('n', 'is_it', 'v'):
        pd.testing.assert_series_equal(found[column], table[column], check_dtype=False)


@pytest.mark.usefixtures('rows')
def test_parquet_and_text_say_the_same_of_gaps(tmp_path):
    table = pd.DataFrame(
        {
            'moved': [True, None, False],
            'scanner': [40123451, None, 40123452],
            'series': [2**53 + 2, 2**60 + 1, None],
            'note': ['n/a', '', 'moved'],
            'score': ['nan', 1.5, 2],
        },
        dtype=object,
    )
    write_table(table, tmp_path / 't.tsv')
    write_parquet(table, tmp_path / 't.parquet')
    text, found = read_table(tmp_path / 't.tsv'), read_parquet(tmp_path / 't.parquet')
    pd.testing.assert_frame_equal(
        found.astype(object).where(found.notna(), None), text.astype(object).where(text.notna(), None)
    )
    assert found['scanner'].dtype == found['score'].dtype == found['series'].dtype == float
    assert set(found['moved'].dropna()) == {True, False}
