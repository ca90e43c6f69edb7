"""The site is built without a warning, its links lead somewhere, and what it tells users to type is right."""

import configparser
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
if not DOCS.exists():
    pytest.skip('not a checkout', allow_module_level=True)

from bids_qsm.app import cli, options  # noqa: E402
from bids_qsm.app.arguments import build_parser, parse  # noqa: E402
from bids_qsm.app.options import SETTINGS, Options, flag_of  # noqa: E402
from bids_qsm.applications import applications, modules  # noqa: E402
from bids_qsm.derivatives.files import output_path  # noqa: E402
from bids_qsm.derivatives.products import PRODUCTS  # noqa: E402
from bids_qsm.group.analyse import FILES  # noqa: E402
from bids_qsm.group.dictionaries import dictionaries  # noqa: E402
from bids_qsm.workflows.outputs import application_names  # noqa: E402
from tests.documented import undocumented  # noqa: E402


@pytest.fixture(scope='module')
def helpers():
    """What the site is made with: the blocks of pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / 'ext')
        import blocks

    return blocks


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, by a process of its own: every warning is an error."""
    out = tmp_path_factory.mktemp('site')
    build = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', str(DOCS), str(out)]
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {
        path.relative_to(out).as_posix(): path.read_text(encoding='utf-8') for path in out.rglob('*.html')
    }


def test_links_lead_somewhere(site):
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in site.items()}
    lost = []
    for page, text in site.items():
        for link in re.findall(r'<a [^>]*href="([^"]+)"', text):
            path, _, anchor = unquote(link).partition('#')
            if re.match('[a-z]+:', path) or not (path or anchor):
                continue
            target = Path(page).parent / path if path else Path(page)
            name = Path(*_normal(target.parts)).as_posix()
            if name.endswith('.html') and (name not in site or (anchor and anchor not in anchors[name])):
                lost.append(f'{page}: {link}')
    assert lost == []


def _normal(parts):
    found = []
    for part in parts:
        if part == '..':
            found.pop()
        else:
            found.append(part)
    return found


def test_nothing_is_loaded_from_the_network(site):
    for page, text in site.items():
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]+)"', text)
        assert not [one for one in loaded if re.match('(https?:)?//', one)], page


def test_reference_is_complete(site):
    from bids_qsm.app.methods import registries

    assert dictionaries().keys() == FILES.keys()
    for name, field in SETTINGS.items():
        if field.metadata['about'].help:
            assert flag_of(name).removeprefix('--') in site['options.html']
    for command in cli.COMMANDS:
        assert f'usage: bids_qsm {command}' in site['commands.html']
    for step, registry in registries().items():
        for method in registry:
            assert f'id="{step}-{method}"'.replace('_', '-') in site['algorithms.html'], (step, method)
    for product in PRODUCTS.values():
        assert not product.suffix or f'*_{product.suffix}.nii.gz' in site['files.html']
    for key, described in dictionaries().items():
        section = site['files.html'].split(f'<h3>{Path(FILES[key]).name}<')[1].split('<h3>')[0]
        for column in described:
            assert f'<span class="pre">{column}</span>' in section, (key, column)
    for one in applications():
        assert f'id="app-{one.name}"' in site['applications.html']
        for column in (column for table in one.tables for column in table.described()):
            assert f'<span class="pre">{column}</span>' in site['applications.html'], (one.name, column)
    assert '<math' in site['algorithms.html']
    assert 'bids_qsm.recon.inversion.tv.tv' in site['api/recon.html']


def test_every_option_has_its_default_and_when_to_use_it(site):
    """Those of the parser, each in a section of its own."""
    options = {
        name for name, field in SETTINGS.items() if field.metadata['about'].help and name != 'applications'
    }
    advice = tomllib.loads((DOCS / 'ext' / 'advice.toml').read_text())
    assert advice['when'].keys() == options
    assert advice['default'].keys() <= options
    flags = {flag_of(name) for name in options}
    page = site['options.html']
    sections = {
        re.sub('<[^>]+>', '', part.split('<a class="headerlink"')[0]): part for part in page.split('<h3>')[1:]
    }
    for action in build_parser()._actions:
        long = [flag for flag in action.option_strings if flag in flags]
        if long:
            section = sections[long[0]]
            assert 'Default: ' in section, long
            assert 'When:' in section, long
            for choice in action.choices or ():
                assert str(choice) in section, (long, choice)


def test_outputs_page_lists_every_file():
    names = [
        output_path('', {'sub': '01'}, **name).as_posix()
        for one in applications()
        for name in application_names(one, 'nuclei').values()
    ]
    names += [f'sub-01/anat/sub-01_{one.suffix}.nii.gz' for one in PRODUCTS.values() if one.suffix]
    assert undocumented([*names, *FILES.values()]) == []
    assert undocumented(['sub-01/anat/sub-01_nonsense.nii.gz']) != []


def test_questions_are_many_and_answers_short():
    text = (DOCS / 'faq.md').read_text()
    asked = re.findall(r'^### (.+)\n\n(.+)$', text, re.MULTILINE)
    assert len(asked) == len({question for question, _ in asked}) == text.count('\n### ') >= 75
    for question, answer in asked:
        assert question.endswith(('?', '`sub-`?')), question
        assert '](' in answer, question
        assert len(answer) < 600, question


@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md', 'hpc/README.md'])
def test_links_of_files_beside_the_site(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text):
        assert ':' in link or (ROOT / page).parent.joinpath(link).exists(), link


PAGES = (
    'README.md',
    'CONTRIBUTING.md',
    'hpc/README.md',
    *(f'docs/{path.name}' for path in sorted(DOCS.glob('*.md'))),
)
OTHERS = (
    '.',
    'apptainer',
    'bash',
    'cat',
    'docker',
    'echo',
    'git',
    'npm',
    'pip',
    'pre-commit',
    'python3.11',
    'sbatch',
    'source',
    'touch',
)
"""Commands of pages that are not ours, whose arguments are not looked at."""


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_right(page, helpers, monkeypatch):
    """Every command in a block, and every one of ours within a text, is read by the program itself."""
    text = (ROOT / page).read_text()
    blocks = [*helpers.blocks(text)]
    lines = [line for language, block in blocks if language in ('sh', '') for line in helpers.commands(block)]
    shown = [line for language, block in blocks if language == 'text' for line in helpers.commands(block)]
    lines += [line for line in shown if line.startswith('bids_qsm ') and 'smooth_division' not in line]
    prose = helpers.FENCE.sub('', text)
    inline = re.findall(r'(?<!`)`(bids_qsm [^`]+)`(?!`)', prose)
    lines += [line for line in inline if not re.search(r'\.\.\.|[|{]', line) and not _is_name(line)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(options, '_check_plugin', lambda *_: None)
    monkeypatch.setattr(options, 'total_memory_gb', lambda: 1000.0)
    for line in lines:
        for words in _simple(line):
            _check(words, monkeypatch)


def _is_name(line):
    """Whether a text names a command, or a flag of one, without folders."""
    words = line.split()[1:]
    return words[0] in cli.COMMANDS and all(word.startswith('-') for word in words[1:])


def _simple(line):
    """Commands of a line, each as words; what stands for further options is left out."""
    line = re.sub(r'\[[a-z ]*options[a-z ]*\]', '', re.sub(r'\$\([^)]*\)', '1000', line))
    words = shlex.split(line, comments=True)
    while words:
        end = words.index('&&') if '&&' in words else len(words)
        command, words = words[:end], words[end + 1 :]
        # what goes to a file
        yield next((command[:n] for n, word in enumerate(command) if word in ('>', '>>')), command)


def _check(words, monkeypatch):
    if words[0] in ('docker', 'apptainer') and words[1] == 'run' and '--entrypoint' not in words:
        first = next(n for n, word in enumerate(words) if word in ('bids_qsm', 'bids_qsm.sif'))
        words = ['bids_qsm', *words[first + 1 :]]
    name, given = words[0], words[1:]
    if words[:3] == ['python', '-m', 'bids_qsm']:
        name, given = 'bids_qsm', words[3:]
    if name == 'bids_qsm':
        _check_own(given, monkeypatch)
    elif name == 'make':
        assert re.search(rf'^{given[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE), given[0]
    elif name == 'python':
        script = ROOT / given[0]
        source = script.read_text()
        assert all(
            word.partition('=')[0] in source for word in given if word.startswith('--') and word != '--help'
        )
    elif name == 'pytest':
        assert all((ROOT / word).exists() for word in given if '/' in word)
    else:
        assert name in OTHERS, f'{name}: a command that no test looks at'
    if name == 'pip':
        config = configparser.ConfigParser()
        config.read(ROOT / 'setup.cfg')
        extras = {extra for word in given for extra in _extras(word)}
        assert extras <= set(config['options.extras_require'])


def _extras(word):
    found = re.search(r'^(?:bids_qsm|\.)\[(.+)\]', word)
    return found[1].split(',') if found else []


class _Read(Exception):
    """The arguments were read, and nothing is run."""


def _stop(*_):
    raise _Read


def _check_own(given, monkeypatch):
    if not given or given in (['--help'], ['--version']):
        return
    if given[0] not in cli.COMMANDS or {'participant', 'group'} & set(given):
        Options.from_settings(parse(given))
        return
    parsed = cli._parsed
    with monkeypatch.context() as patch:
        patch.setattr(cli, 'set_threads', _stop)
        patch.setattr(cli, '_parsed', lambda *arguments: _stop(parsed(*arguments)))
        with pytest.raises(_Read):
            cli.COMMANDS[given[0]](given[1:])


FOREIGN = {
    '--account',
    '--array',
    '--build-arg',
    '--cleanenv',
    '--partition',
    '--read-only',
    '--time',
    '--tmpfs',
}
FOREIGN |= {'--datasets', '--nuisance-regressors'}
FOREIGN |= {'--highchi'}
"""Flags of docker, Apptainer, SLURM and XCP-D, and that of the example that readers write."""


def test_flags_in_texts_exist(helpers):
    """A flag that a page names is one of ours, of another command, or of a script or other program."""
    source = ''.join(path.read_text() for path in (ROOT / 'bids_qsm' / 'app').glob('*.py'))
    known = {flag_of(name) for name in SETTINGS} | {f'--{name}' for name in modules()}
    known |= {'--config', '--help', *(f'--{name}' for name in re.findall(r"'--([a-z-]+)'", source))}
    scripts = ''.join(
        path.read_text() for of in ('benchmarks', 'examples') for path in (ROOT / of).glob('*.py')
    )
    lost = []
    for page in PAGES:
        prose = helpers.FENCE.sub('', (ROOT / page).read_text())
        for code in re.findall(r'`([^`\n]+)`', prose):
            for flag in re.findall(r'(?<![\w-])--[a-z][a-z0-9-]*', code):
                if flag not in known | FOREIGN and f"'{flag}'" not in scripts:
                    lost.append(f'{page}: {flag}')
    assert lost == []


def test_cohort_of_a_tutorial_gives_what_its_page_says(helpers, tmp_path, capsys, monkeypatch):
    """The page of Parkinson's disease up to its first result."""
    helpers.prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = [*helpers.blocks((DOCS / 'tutorial_parkinson.md').read_text())]
    make, run, *_ = (shlex.split(block) for language, block in blocks if language == 'sh')
    assert (make[:2], run[0]) == (['python', 'examples/simulate.py'], 'bids_qsm')
    monkeypatch.setattr(sys, 'argv', make[1:])
    runpy.run_path(make[1], run_name='__main__')
    assert cli.main(run[1:]) == 0
    capsys.readouterr()
    exec(next(block for language, block in blocks if language == 'python'), {})
    of_group = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in of_group[:2]] == ['region', 'SN']
    assert float(of_group[1][-1]) < 0.05 < float(of_group[2][-1])


def test_gallery_runs(helpers, tmp_path, capsys):
    helpers.prepare(tmp_path)
    helpers.run('gallery', tmp_path)
    shown = re.findall(r'\]\((figures/[^)]+)\)', (DOCS / 'gallery.md').read_text())
    assert len(shown) == 4
    assert all((tmp_path / name).stat().st_size > 1000 for name in shown)
    assert float(re.search(r'largest error of the field: (\S+) ppb\n', capsys.readouterr().out)[1]) < 0.1


def test_examples_of_the_extension_page_run(helpers):
    """The method inverts a field, and the application measures a known share."""
    import numpy as np
    import pandas as pd

    from bids_qsm.recon.fourier import convolve, dipole_kernel
    from bids_qsm.recon.grid import Grid
    from bids_qsm.recon.registry import call, facts, parameters

    text = (DOCS / 'extending.md').read_text()
    method, application = (block for language, block in helpers.blocks(text) if language == 'python')
    names = {'__name__': 'extending'}
    exec(method, names)
    smooth = names['smooth_division']
    grid = Grid((32, 32, 32), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    mask, chi = np.zeros(grid.shape, bool), np.zeros(grid.shape, np.float32)
    mask[4:-4, 4:-4, 4:-4], chi[12:20, 12:20, 12:20] = True, 0.1
    field = convolve(chi, dipole_kernel(grid.shape, grid.voxel_size, grid.b0_dir)) * mask
    found = call(smooth, {'field': field, 'mask': mask, 'grid': grid}, {'threshold': 0.1})
    assert np.corrcoef(found[mask], chi[mask])[0, 1] > 0.9
    assert not found[~mask].any()
    assert parameters(smooth) == {'threshold': 0.12}
    assert 'tkd' in facts(smooth).prose

    names = {'__name__': 'highchi'}
    exec(application, names)
    dseg = np.where(chi > 0, 1, 0)
    labels = pd.DataFrame({'index': [1], 'region': ['GP'], 'hemisphere': ['L']})
    halved = np.where(np.arange(32)[:, None, None] < 16, 0.2, 0) * (chi > 0)
    high, table = names['APPLICATION'].measure(halved.astype(np.float32), mask, dseg, labels)
    assert high.sum() == 256
    assert table['mean'].tolist() == [50.0]
