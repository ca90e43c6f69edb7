import json
import re

import pytest

from bids_qsm.errors import UserError
from bids_qsm.reports.html import data_uri, read_findings, read_json


def test_json_is_read_with_its_mark_and_named_where_broken(tmp_path):
    path = tmp_path / 'participants.json'
    assert read_json(path, {'none': 1}) == {'none': 1}
    path.write_bytes(b'\xef\xbb\xbf{"age": {"Units": "year"}}')
    assert read_json(path, {}) == {'age': {'Units': 'year'}}
    for broken in (b'{"age": ', b'', b'[1]', b'"text"', b'\xff\xfe{'):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r'participants\.json .*mend or remove it'):
            read_json(path, {})


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
    (found,) = read_findings(tmp_path, [])
    assert (found['series'], found['facts']) == ('sub-01', {})
    assert found['findings'][0]['level'] == level
