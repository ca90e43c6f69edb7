import pytest

from bids_qsm.app import arguments
from bids_qsm.app import options as module
from bids_qsm.app.methods import Method, describe
from bids_qsm.app.options import STEPS, Options
from bids_qsm.errors import UserError
from bids_qsm.recon.masking import MASK


def tv(
    field,
    mask,
    *,
    alpha: float = 2e-4,
    n_iter: int = 40,
    fast: bool = True,
    radii=(6.0, 1.0),
    name='a',
    at=None,
):
    """Invert by total variation [1]_.

    More.
    """


def tkd(field, *, threshold: float = 0.15):
    """Invert by truncation."""


REGISTRY = {'tv': tv, 'tkd': tkd}


@pytest.fixture(autouse=True)
def _registries(monkeypatch):
    known = {step: {**REGISTRY, Options.__dataclass_fields__[step].default.name: tv} for step in STEPS}
    monkeypatch.setattr(module, 'registries', lambda: known)


@pytest.fixture
def make(tmp_path):
    def make(**settings):
        return Options.from_settings(
            {
                'bids_dir': str(tmp_path / 'in'),
                'output_dir': str(tmp_path / 'out'),
                'level': 'participant',
                **settings,
            }
        )

    return make


def test_method_values_take_the_type_of_the_default():
    method = Method.parse('tv:alpha=1e-3,n_iter=7,fast=no,radii=12/2.5,name=b c,at=3', REGISTRY)
    assert method.name == 'tv'
    assert method.as_dict == {
        'alpha': 1e-3,
        'n_iter': 7,
        'fast': False,
        'radii': (12.0, 2.5),
        'name': 'b c',
        'at': 3,
    }
    assert Method.parse(str(method), REGISTRY) == method


def test_method_without_parameters():
    assert Method.parse('tkd', REGISTRY) == Method('tkd')
    assert Method.parse('tv:at=none', REGISTRY).as_dict == {'at': None}


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('medi', r"no method 'medi'; known are: tv, tkd"),
        ('tv:beta=1', r"tv has no parameter 'beta'; its parameters are: alpha=0.0002"),
        ('tv:alpha', r"'alpha' in 'tv:alpha' is not of the form param=value"),
        ('tv:alpha=x', r"tv:alpha takes a number, not 'x'"),
        ('tv:n_iter=1.5', r"tv:n_iter takes a whole number, not '1.5'"),
        ('tv:fast=perhaps', r'takes true or false'),
        ('tv:radii=1/x', r"numbers separated by '/'"),
    ],
)
def test_method_errors_list_what_is_known(text, says):
    with pytest.raises(UserError, match=says):
        Method.parse(text, REGISTRY)


def test_help_names_methods_and_defaults():
    text = describe('inversion', REGISTRY)
    assert '--inversion NAME[:param=value,...]' in text
    assert 'tv         Invert by total variation.' in text
    assert 'alpha=0.0002, n_iter=40, fast=true, radii=6.0/1.0, name=a, at=None' in text


def test_help_says_where_the_brain_of_a_mask_comes_from():
    """The app passes the brain of the anatomical image to every mask; bet finds one only where asked for."""
    text = describe('mask', MASK)
    for name in ('combined', 'brain'):
        assert f'\n  {name:<10} The brain (given, or as found for the anatomical image)' in text
    assert '`bet`' not in text


def test_defaults(make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'available_cpus', lambda: 6)
    options = make()
    assert options.work_dir == tmp_path / 'out' / 'work'
    assert (options.nprocs, options.omp_nthreads) == (6, None)
    assert 0 < options.mem_gb <= module.total_memory_gb()
    assert options.inversion == Method('whnltv')
    assert options.output_spaces == ('MNI152NLin2009aSym',)


def test_labels_and_paths_are_normalised(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = make(
        participant_label=['sub-02', '01', '02'],
        session_label=['ses-a'],
        work_dir='w',
        derivatives=[('fp', 'd')],
    )
    assert options.participant_label == ('01', '02')
    assert options.session_label == ('a',)
    assert options.work_dir == tmp_path / 'w'
    assert options.derivatives == (('fp', tmp_path / 'd'),)


def test_a_space_named_twice_is_one(make):
    assert make(output_spaces=['B', 'A', 'B']).output_spaces == ('B', 'A')


def test_an_atlas_file_is_found_from_any_folder(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a_dseg.nii.gz').write_text('')
    (tmp_path / 'nuclei').write_text('')
    assert make(atlas='a_dseg.nii.gz').atlas == str(tmp_path / 'a_dseg.nii.gz')
    assert make().atlas == 'nuclei'


def test_toml_reruns_the_same(make):
    options = make(
        inversion='tv:alpha=0.001,fast=no',
        derivatives=[('fmriprep', '/data/prep "24"'), ('smriprep', '/data/é')],
        participant_label=['01'],
        nprocs=3,
        omp_nthreads=1,
        mem_gb=1,
        skip_bids_validation=True,
    )
    text = options.to_toml()
    assert Options.from_toml(text) == options
    assert Options.from_toml(text, nprocs=5, inversion='tkd').inversion == Method('tkd')


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('atlass = "x"', r"cfg names 'atlass'; known settings are: .*atlas"),
        ('atlas = ', r'cfg is not valid TOML'),
    ],
)
def test_toml_errors(text, says):
    with pytest.raises(UserError, match=says):
        Options.from_toml(text, source='cfg')


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ({'level': 'subject'}, r"--level is 'subject'; it must be one of: participant, group"),
        ({'nprocs': 0}, r'--nprocs is 0; it must be at least 1'),
        ({'nprocs': 1, 'omp_nthreads': 2}, r'--omp-nthreads is 2, more than --nprocs'),
        ({'nprocs': 'two'}, r"--nprocs must be a whole number, not 'two'"),
        ({'nprocs': True}, r'--nprocs must be a whole number'),
        ({'mem_gb': 16000}, r'--mem is 16000 GB, but this machine has'),
        ({'participant_label': [1]}, r'must be a list of texts'),
        ({'derivatives': [('raw', 'x')]}, r'--derivatives raw=PATH'),
        ({'derivatives': [('a', 'x'), ('a', 'y')]}, r'name each differently'),
        ({'output_spaces': []}, r'names no space'),
        ({'use_plugin': '/none.yml'}, r'--use-plugin is /none.yml, which is not a file'),
        ({'phase_sign': 'up'}, r"--phase-sign is 'up'"),
        (
            {'phase_scaling': '4096'},
            r"--phase-scaling is '4096'; it must be auto, radians, degrees, or LOW,HIGH",
        ),
        ({'phase_scaling': '5,5'}, r"--phase-scaling is '5,5'"),
        ({'inversion': 'medi'}, r"--inversion: there is no method 'medi'"),
        ({'work_dir': '/caf\udce9'}, r'--work-dir is "/caf\\udce9", which is not UTF-8; rename it'),
        ({'derivatives': [('a', '/caf\udce9')]}, r'--derivatives is .* not UTF-8'),
        ({'color': 'red'}, r"there is no setting 'color'; known are: bids_dir"),
    ],
)
def test_wrong_settings_are_one_sentence(make, settings, says):
    with pytest.raises(UserError, match=says):
        make(**settings)


def test_missing_positionals():
    with pytest.raises(UserError, match='the output folder is missing'):
        Options.from_settings({'bids_dir': 'x'})


def test_mask_files(make, tmp_path):
    pattern = f'{tmp_path}/{{series}}, a:b.nii.gz'
    options = make(mask=pattern)
    assert options.mask == Method('file', (('path', pattern),))
    again = Options.from_toml(options.to_toml())
    assert again.mask == options.mask


def test_applications(make, monkeypatch):
    known = {'candidates': lambda: None, 'oximetry': lambda *, hematocrit=0.4: hematocrit}
    monkeypatch.setattr(module, 'applications', lambda: known)
    options = make(applications=['oximetry', 'candidates', 'oximetry:hematocrit=0.45'])
    assert [str(one) for one in options.applications] == ['oximetry:hematocrit=0.45', 'candidates']
    assert 'applications = ["oximetry:hematocrit=0.45", "candidates"]' in options.to_toml()
    assert Options.from_toml(options.to_toml()) == options
    command = options.to_command(participants=())
    assert command.endswith('participant --oximetry:hematocrit=0.45 --candidates')
    monkeypatch.setattr(arguments, 'modules', lambda: known)
    monkeypatch.setattr(arguments, 'about', lambda _: 'also do it')
    assert arguments.parse(command.split()[1:])['applications'] == ['oximetry:hematocrit=0.45', 'candidates']


def test_candidates_of_older_configurations(make):
    text = make().to_toml().replace('applications = []', 'candidates = {}')
    assert Options.from_toml(text.format('true')) == make(applications=['candidates'])
    assert Options.from_toml(text.format('false')) == make()


@pytest.mark.parametrize(
    ('chosen', 'says'),
    [
        ('candidates', r"--applications must be a list of texts, not 'candidates'"),
        (['tendons'], r"--applications: there is no method 'tendons'; known are: calcium, candidates"),
        (['candidates:size=2'], r"candidates has no parameter 'size'"),
    ],
)
def test_wrong_applications(make, chosen, says):
    with pytest.raises(UserError, match=says):
        make(applications=chosen)
