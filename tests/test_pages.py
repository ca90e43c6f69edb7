import json
import re

import pandas as pd
import pytest

from bids_qsm.pages import data_uri, read_findings, read_table


def test_a_long_table_has_one_type_a_column(tmp_path):
    """Read in pieces, acq_time would be empty in the first and text in the last."""
    table = pd.DataFrame({'mean': 0.125, 'acq_time': ['n/a'] * 80_000 + ['2020-01-01'] * 10})
    table.to_csv(tmp_path / 'long.tsv', sep='\t', index=False)
    found = read_table(tmp_path / 'long.tsv')
    assert found['acq_time'].notna().sum() == 10
    assert found['mean'].dtype == float


def test_data_uri_tells_the_kind():
    assert re.fullmatch('data:image/svg\\+xml;base64,PHN2Zy8\\+', data_uri(b'<svg/>', '.svg'))


@pytest.mark.parametrize(
    ('finding', 'level'),
    [
        ({'found': 'Fine.'}, 'info'),
        ({'found': 'The data do not settle it (flat).'}, 'warning'),
        ({'evidence': 'The data do not settle it (flat).', 'level': 'error'}, 'error'),
    ],
)
def test_what_the_data_do_not_settle_is_a_warning(tmp_path, finding, level):
    (tmp_path / 'sub-01_desc-findings.json').write_text(json.dumps({'findings': [finding]}))
    (found,) = read_findings(tmp_path)
    assert (found['series'], found['facts']) == ('sub-01', {})
    assert found['findings'][0]['level'] == level
