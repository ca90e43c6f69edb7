"""Errors name a page of the documentation that is there, by where they come from."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from bids_qsm.app import cli, pages
from bids_qsm.errors import UserError

DOCS = Path(__file__).parents[2] / 'docs'


def anchors(page):
    """Anchors of the headings of a page, as GitHub and Markdown builders make them."""
    text = re.sub(r'```.*?```', '', (DOCS / page).read_text(), flags=re.DOTALL)
    headings = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', sorted({*pages.PAGES.values(), 'running.md'}))
def test_pages_and_headings_exist(page):
    name, _, anchor = page.partition('#')
    assert (DOCS / name).is_file()
    assert not anchor or anchor in anchors(name)


def test_rooms_and_modules_exist():
    for name in pages.PAGES:
        assert find_spec(f'bids_qsm.{name}'), name


def test_a_page_is_named_by_words_where_it_is_no_file(monkeypatch):
    assert pages.address('running.md#clusters') == 'See docs/running.md#clusters.'
    monkeypatch.setattr(pages, 'HAS_DOCS', False)
    assert pages.address('dicom.md') == 'See the page "dicom" of the documentation.'
    said = pages.address('running.md#progress-and-status')
    assert said == 'See the page "running" of the documentation, at "progress and status".'


def raised(function, *arguments):
    with pytest.raises(UserError) as found:
        function(*arguments)
    return found.value


def test_the_module_comes_before_its_room_and_the_last_one_counts(tmp_path):
    from bids_qsm.execution.array_tasks import parse_task
    from bids_qsm.execution.status import show_status
    from bids_qsm.layout.dataset import require_dataset

    assert pages.explained(raised(parse_task, 'x')).endswith('such as 3/12. See docs/running.md#clusters.')
    assert pages.explained(raised(show_status, tmp_path)).endswith('See docs/running.md#progress-and-status.')
    error = raised(require_dataset, tmp_path / 'x')
    assert pages.explained(error) == f'{error} See docs/inputs.md#problems-in-a-dataset.'


def test_errors_of_elsewhere_name_no_page():
    def fail():
        raise UserError('the file x is wrong.')

    assert pages.explained(raised(fail)) == 'the file x is wrong.'


def test_the_command_line_names_the_page(tmp_path, capsys):
    assert cli.main(['status', str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(' See docs/running.md#progress-and-status.\n')
