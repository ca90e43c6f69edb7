"""Nothing that a dataset holds is run, names a place outside the output, or reaches a page as markup."""

import ast
import base64
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_qsm.app import cli
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph
from bids_qsm.derivatives.files import output_path
from bids_qsm.entities import entities_of
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.layout import find_series
from bids_qsm.reports.subject import build_subject_report
from tests import malformed
from tests.cohorts import write_cohort
from tests.nasty import WORDS
from tests.pages import without_own_scripts
from tests.test_architecture import PATHS, tree_of
from tests.test_fuzz import fuzz

RUNS = {'eval', 'exec', 'compile', '__import__', 'system', 'popen', 'Popen', 'getoutput', 'getstatusoutput'}
"""Names of functions that run text; `re.compile` compiles no code."""
OWN = {'execution/numba_cache.py': ['loadpkl'], 'execution/pool.py': ['pickle']}
"""What reads the results of a run that it has just made itself."""
UNPICKLES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'shelve', 'marshal', 'joblib'}
SHORT = '<b onclick="alert(1)">\'&amp;'
HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(1)>&amp;{{7*7}}'


def dangers(tree):
    """What in a source file would run or unpickle what it is given, as (line, what)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, 'module', '') or '']
            yield from ((node.lineno, name) for name in names if name.partition('.')[0] in UNPICKLES)
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, 'attr', '')
        owner = getattr(getattr(node.func, 'value', None), 'id', '')
        options = {word.arg: word.value for word in node.keywords}
        if name in RUNS and owner != 're':
            yield node.lineno, name
        elif name in ('load', 'load_all', 'full_load', 'unsafe_load') and owner in ('yaml', 'torch'):
            yield node.lineno, f'{owner}.{name}'
        elif name in ('read_pickle', 'loadpkl', 'mktemp', 'extractall'):
            yield node.lineno, name
        elif {'shell', 'allow_pickle'} & set(options):
            yield node.lineno, f'{name} with {sorted(options)}'
        elif owner == 'subprocess' and isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
            yield node.lineno, f'subprocess.{name} with a text'


@pytest.mark.parametrize('path', PATHS, ids=str)
def test_nothing_is_run_or_unpickled(path):
    found = [what for _, what in dangers(tree_of(path))]
    assert found == OWN.get(str(path), [])


@pytest.mark.parametrize(
    'code',
    [
        'eval(x)',
        'import os; os.system(x)',
        'import subprocess; subprocess.run(f"ls {x}")',
        'import subprocess; subprocess.run(["ls"], shell=True)',
        'from pickle import load',
        'import joblib.memory',
        'import yaml; yaml.load(x)',
        'import numpy as np; np.load(x, allow_pickle=True)',
        'pd.read_pickle(x)',
    ],
)
def test_dangers_are_noticed(code):
    assert list(dangers(ast.parse(code)))


@fuzz(150)
@given(
    st.dictionaries(
        st.sampled_from(['sub', 'ses', 'acq', 'run', 'space', 'seg', 'label', 'desc']),
        st.one_of(WORDS, st.sampled_from(['../x', '/etc/x', '..', 'a/b', '..\\x', '01', 'x'])),
    ),
    st.sampled_from(['Chimap', 'mask', 'stats', 'xfm', '../x']),
)
def test_names_of_outputs_stay_in_the_output(entities, suffix):
    labels = {key: entities.pop(key) for key in ('space', 'seg', 'label', 'desc') if key in entities}
    try:
        path = output_path('/out', {'sub': '01', **entities}, suffix=suffix, **labels)
    except ValueError:
        return
    assert path.parent.parts[:2] == ('/', 'out')
    assert '..' not in path.parts
    assert all(re.fullmatch(r'[\w.+-]+', part, re.ASCII) for part in path.parts[1:])


def test_graph_writes_to_the_output_alone(tmp_path, templates):
    """Whatever names and sidecars hold, the graph is told of no other place to write to."""
    root = malformed.write_sound(tmp_path / 'in')
    theirs = root / 'derivatives' / 'sub-01' / 'anat'
    for old, new in (
        ('_dseg.nii.gz', '_seg-..%2f..%2fx_dseg.nii.gz'),
        ('_dseg.tsv', '_seg-..%2f..%2fx_dseg.tsv'),
    ):
        found = theirs / f'sub-01_seg-hand{old}'
        found.rename(theirs / f'sub-01{new}')
    (theirs / 'sub-01_seg-..%2f..%2fx_dseg.tsv').write_text('index\tname\n1\t../../../x\n')
    for path in (root / 'data').glob('sub-*/anat/*.json'):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, 'Manufacturer': '../../x', 'SeriesDescription': '/etc/x'}))
    (root / 'data' / 'dataset_description.json').write_text('{"Name": "../../x", "BIDSVersion": "1.10.0"}')
    out = tmp_path / 'out'
    options = Options(
        bids_dir=root / 'data',
        output_dir=out,
        level='participant',
        work_dir=templates,
        skip_bids_validation=True,
        derivatives=(('others', root / 'derivatives'),),
    )
    plan = find_series(options)
    assert [one.name for one in plan.series] == ['sub-01', 'sub-02']
    assert plan.series[0].segmentations
    workflow, _ = build_graph(options, plan)
    nodes = [
        node for node in workflow._create_flat_graph().nodes() if isinstance(node.interface, SaveDerivatives)
    ]
    places = [
        p for node in nodes for p in (*node.interface.inputs.paths.values(), *node.interface.inputs.remove)
    ]
    assert len(places) > 20
    assert all(p.startswith(f'{out}/sub-0') and '/..' not in p for p in places)


def test_labels_on_the_command_line_name_no_place(tmp_path, capsys):
    root = malformed.write_sound(tmp_path / 'in')
    for level, label in (('participant', '../../x'), ('group', '/etc')):
        arguments = [str(root / 'data'), str(tmp_path / 'out'), level, '--participant-label', label]
        assert cli.main([*arguments, '--skip-bids-validation']) == 2
        assert 'unexpected' not in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


class Page(HTMLParser):
    """Tags, attributes and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.addresses = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in ('href', 'src')]


def require_harmless(text):
    """The page holds the hostile text, and no tag, attribute or address that it could have made."""
    text = without_own_scripts(text)
    page = Page(text)
    assert 'alert(1)' in text
    assert not page.tags & {'script', 'iframe', 'object', 'embed', 'svg', 'form', 'input', 'link', 'base'}
    assert not [name for name in page.attributes if name.startswith('on')]
    assert 'x' not in page.addresses
    for address in page.addresses:
        assert re.match(r'#|data:image/(png|svg\+xml);base64,|https://doi\.org/|sub-[\w+]+\.html$', address)
        if address.startswith('data:image/svg'):
            drawn = base64.b64decode(address.partition(',')[2]).decode()
            assert not re.search(r'<script|<img|<foreignObject|\bonerror=[^a]', drawn)


def poison(value):
    """Every text in a JSON value with the hostile one behind it; levels and times keep theirs."""
    if isinstance(value, dict):
        kept = ('level', 'started', 'statistic', 'subject')
        return {(k if k in _KEYS else k + HOSTILE): v if k in kept else poison(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


_KEYS = {
    'facts',
    'findings',
    'what',
    'found',
    'level',
    'action',
    'evidence',
    'version',
    'started',
    'failures',
}
_KEYS |= {'methods', 'command', 'packages', 'python', 'subject', 'series', 'node', 'message', 'Units'}


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory):
    """A cohort in which every text that a dataset or a run can hold is hostile."""
    data, out = write_cohort(tmp_path_factory.mktemp('poisoned'), n=8, repeated=2)
    for path in out.rglob('*_stats.tsv'):
        table = pd.read_csv(path, sep='\t', keep_default_na=False)
        for column in {'region', 'units', 'reference', 'reason', 'source', 'sign', 'kind'} & set(table):
            table[column] = [v + SHORT if v not in ('', 'n/a') else v for v in table[column].astype(str)]
        table.assign(**{HOSTILE: HOSTILE}).to_csv(path, sep='\t', index=False)
        described = json.loads(path.with_suffix('.json').read_text())
        path.with_suffix('.json').write_text(json.dumps({k: {'Units': HOSTILE} for k in described}))
    for path in out.glob('sub-*/figures/*.json'):
        content = json.loads(path.read_text())
        content['findings'].append({'what': 'x', 'found': 'y', 'level': 'warning'})
        path.write_text(json.dumps(poison(content)))
    failure = {'subject': '001', 'series': 'sub-001', 'node': 'n', 'message': 'm'}
    record = json.loads((out / 'logs' / 'sub-001.json').read_text())
    record |= {
        'command': 'bids_qsm',
        'methods': ['A method.'],
        'packages': {'numpy': '1'},
        'failures': [failure],
    }
    (out / 'logs' / 'sub-001.json').write_text(json.dumps(poison(record)))
    people = pd.read_csv(data / 'participants.tsv', sep='\t')
    people['group'] += SHORT
    people.assign(**{HOSTILE: HOSTILE}).to_csv(data / 'participants.tsv', sep='\t', index=False)
    (data / 'participants.json').write_text(json.dumps({'age': {'Description': HOSTILE, 'Units': HOSTILE}}))
    return data, out


def test_page_of_a_subject_escapes_everything(poisoned):
    _, out = poisoned
    require_harmless(build_subject_report(out, '001').read_text())


def test_page_of_the_cohort_escapes_everything(poisoned, capsys):
    data, out = poisoned
    assert cli.main([str(data), str(out), 'group', '--model', 'chi ~ group + age']) == 0
    capsys.readouterr()
    text = (out / 'group.html').read_text()
    require_harmless(text)
    for said in ('control', 'y', 'm'):
        assert f'{said}&lt;' in text
    assert all(entities_of(path) == {} for path in out.glob('group*'))
