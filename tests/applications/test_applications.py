"""Applications declare themselves: each is sound, and a toy of one file goes through the whole job."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from bids.layout import BIDSLayout
from nilearn.interfaces.fmriprep.load_confounds_compcor import find_compcor, prefix_compcor

from bids_qsm.app import cli
from bids_qsm.applications import about, application, applications, modules
from bids_qsm.applications.contract import Application, Figure, Image, Query, Table
from bids_qsm.derivatives.files import output_path
from bids_qsm.entities import entities_of
from bids_qsm.interfaces.xfm import load_xfm
from bids_qsm.plotting.volumes import NOTHING, unpacked
from bids_qsm.reports.citations import cite
from bids_qsm.reports.viewer import build_viewer
from bids_qsm.workflows.outputs import application_names
from tests.applications import prepared


@pytest.mark.parametrize('app', applications(), ids=lambda app: app.name)
def test_each_is_sound(app):
    """Its flag has a help text, its files have names, its citations exist, its columns are described."""
    assert about(app.name).endswith('.')
    for name in application_names(app, 'nuclei').values():
        output_path('out', {'sub': '01'}, **name)
    cite([app.method])
    for table in app.tables:
        described = table.described('nuclei')
        assert set(table.shown) <= set(described)
        assert all(one['Description'].endswith('.') for one in described.values())
    images = {image.name for image in app.images}
    assert all(figure.draw or figure.name in images for figure in app.figures)


def test_no_two_write_one_file():
    """Names differ within an application and between applications, and tables are told by their names."""
    files = [
        output_path('out', {'sub': '01'}, **name)
        for app in applications()
        for name in application_names(app, 'nuclei').values()
    ]
    assert len(set(files)) == len(files)
    for app in applications():
        for table in app.tables:
            name = output_path('out', {'sub': '01'}, **application_names(app, 'nuclei')[table.name])
            owners = [(one, one.wrote(entities_of(name))) for one in applications()]
            assert [pair for pair in owners if pair[1]] == [(app, table)]


def test_a_wrong_declaration_is_refused():
    query = Query('flow', 'flow map', ('cbf',))
    two = (Table(), Table('rows', entities=(('desc', 'wrong'),)))
    other_space = Image('x', 'mask', 'x', entities=(('space', 'T1w'),))
    chart = Figure('chart', 'Chart', 'A chart.', draw=str, table='rows')
    for wrong, said in (
        ({'measure': lambda nonsense: nonsense}, 'nonsense'),
        ({'measure': lambda chi: chi, 'extra': (query,)}, 'flow'),
        ({'measure': lambda chi: chi, 'images': (Image('x', 'bold', 'x'),)}, 'bold'),
        ({'measure': lambda chi: chi, 'images': (Image('x', 'Chimap', 'x', desc=''),)}, 'name of another'),
        ({'measure': lambda chi: chi, 'images': (Image('brain', 'mask', 'x'),)}, 'name of another'),
        ({'measure': lambda chi: chi, 'images': (Image('x', 'mask', 'x', lookup=((1, 'a'),)),)}, 'labels'),
        ({'measure': lambda chi: chi, 'images': (other_space,)}, 'entity space'),
        ({'measure': lambda chi: chi, 'gives': ('x',)}, 'gives'),
        ({'measure': lambda chi: chi, 'gives': ('table', 'rows'), 'tables': two}, 'same entities'),
        ({'measure': lambda chi: chi, 'tables': (Table(),), 'figures': (chart,)}, 'draws rows'),
    ):
        with pytest.raises(ValueError, match=said):
            Application('wrong', 'Wrong', **wrong)


def test_what_applications_use_must_be_there_and_fit(monkeypatch):
    def load(name, measure, **more):
        module = ModuleType(f'loaded_{name}')
        module.APPLICATION = Application(name, name, measure, tables=(Table(),), **more)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(modules(), name, module.__name__)
        return application(name)

    with pytest.raises(ValueError, match='takes nothing of other'):
        Application('wrong', 'Wrong', lambda chi: chi, uses=('other',), tables=(Table(),))
    with pytest.raises(ValueError, match='other_table'):
        Application('wrong', 'Wrong', lambda other_table: other_table, tables=(Table(),))
    with pytest.raises(ValueError, match='no such application'):
        load('first', lambda second_table: second_table, uses=('second',))
    load('second', lambda chi: chi)
    assert application('first').of_others == {'second_table': ('second', 'table')}
    for name, measure, more, said in (
        ('third', lambda second_rows: second_rows, {'uses': ('second',)}, "no image or table 'rows'"),
        ('third', lambda regions_table: regions_table, {'uses': ('regions',)}, 'scope series'),
        ('second', lambda first_table: first_table, {'uses': ('first',)}, 'circle: second, first, second'),
        ('self', lambda self_table: self_table, {'uses': ('self',)}, 'circle: self, self'),
    ):
        with pytest.raises(ValueError, match=said):
            load(name, measure, **more)


def test_a_package_of_its_own_joins_by_an_entry_point(tmp_path, monkeypatch):
    folder = tmp_path / 'guests-1.0.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: guests\nVersion: 1.0\n')
    (folder / 'entry_points.txt').write_text(
        '[bids_qsm.applications]\nguest = tests.applications.toy:APPLICATION\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert modules.__wrapped__()['guest'] == 'tests.applications.toy'
    assert 'candidates' in modules.__wrapped__()


@pytest.fixture(scope='module')
def job(reproducible, tmp_path_factory):
    """A small job with a flow map that lies 6 mm off, and two series, after a run of both toys."""
    job = reproducible.disturb.make_job(tmp_path_factory.mktemp('toy'))
    t1w = nib.load(job.anat / 'sub-01_T1w.nii.gz')
    flow, moved = np.asarray(t1w.dataobj, np.float32), t1w.affine.copy()
    moved[0, 3] += 6
    perf = job.data / 'sub-01' / 'perf'
    perf.mkdir()
    nib.save(nib.Nifti1Image(flow / flow.max(), moved), perf / 'sub-01_cbf.nii.gz')
    # a second series, which starts from its susceptibility map and so takes little time
    for path in list(job.anat.glob('*_MEGRE.*')):
        path.rename(path.with_name(path.name.replace('sub-01_', 'sub-01_acq-first_')))
    truth = job.data / 'derivatives/truth/sub-01/anat/sub-01_Chimap.nii.gz'
    shutil.copy(truth, job.anat / 'sub-01_acq-again_Chimap.nii.gz')
    (job.anat / 'sub-01_acq-again_Chimap.json').write_text(json.dumps({'Units': 'ppm'}))
    (job.data / 'participants.tsv').write_text('participant_id\thematocrit\nsub-01\t0.41\n')
    prepared.add_run(job)
    with pytest.MonkeyPatch.context() as patch:
        for name in ('toy', 'joint', 'reader', 'asker'):
            patch.setitem(modules(), name, f'tests.applications.{name}')
        patch.setitem(modules(), 'veins', 'tests.applications.tubes')
        for name in ('qbold', 'oximetry', 'centralvein'):  # they use more of veins than that gives
            patch.delitem(modules(), name)
        patch.setenv('TEMPLATEFLOW_HOME', str(job.root / 'templateflow'))
        # the reader is not asked for, and runs as the asker uses it
        flags = ('--toy:gain=2', '--joint', '--asker', '--fmri', '--nprocs', '1')
        assert cli.main(job.arguments(*flags)) == 0
        yield job


def test_a_toy_goes_through_the_whole_job(job):
    anat = job.out / 'sub-01' / 'anat'
    image = nib.load(anat / 'sub-01_acq-first_desc-ratio_ratiomap.nii.gz')
    table = pd.read_csv(anat / 'sub-01_acq-first_desc-toy_stats.tsv', sep='\t')
    whole = table[table['region'] == 'Brain'].iloc[0]
    mask = np.asarray(nib.load(anat / 'sub-01_acq-first_desc-brain_mask.nii.gz').dataobj) > 0
    assert np.asarray(image.dataobj)[mask].mean() == pytest.approx(whole['mean'], rel=1e-4)
    sidecar = json.loads((anat / 'sub-01_acq-first_desc-ratio_ratiomap.json').read_text())
    assert sidecar['Units'] == 'ml/ppm'
    described = json.loads((anat / 'sub-01_acq-first_desc-toy_stats.json').read_text())
    assert described['dose'] == {'Description': 'Sum of doses.', 'Units': 'mg'}
    page = (job.out / 'sub-01.html').read_text()
    for said in ('Flow per iron', 'Flow map and anatomical image', 'there is no table of doses'):
        assert said in page
    # the second table, its dictionary, its figure and its place on the page
    peaks = pd.read_csv(anat / 'sub-01_acq-first_desc-peaks_stats.tsv', sep='\t')
    assert peaks['ratio'].tolist() == pytest.approx([np.asarray(image.dataobj).max()], rel=1e-5)
    described = json.loads((anat / 'sub-01_acq-first_desc-peaks_stats.json').read_text())
    assert list(described) == ['i', 'j', 'k', 'ratio']
    figure = job.out / 'sub-01' / 'figures' / 'sub-01_acq-first_desc-where_figure.svg'
    assert f'cx="{peaks["i"][0]}"' in figure.read_text()
    for said in ('Peaks of flow per iron', 'The brightest voxel.', 'Where flow per iron peaks'):
        assert said in page
    # the flow map was laid where the head is: it is dark outside and bright inside
    (align,) = job.nodes.glob('sub_01_wf/align_toyflow_*/xfm.txt')
    assert float(align.read_text().split('Parameters:')[1].split()[9]) == pytest.approx(-6, abs=1.5)
    # images are numbered by kind: the BOLD run beside it does not change the name
    drawn = {path.name for path in (job.out / 'sub-01' / 'figures').glob('*2anat*')}
    assert drawn == {f'sub-01_desc-{kind}12anat_figure.svg' for kind in ('toyflow', 'bold')}


def test_one_uses_the_answers_of_another(job):
    anat = job.out / 'sub-01' / 'anat'
    for series in ('acq-first', 'acq-again'):
        found = {
            name: pd.read_csv(anat / f'sub-01_{series}_desc-{name}_stats.tsv', sep='\t')
            for name in ('peaks', 'reader', 'asker')
        }
        ratio = np.asarray(nib.load(anat / f'sub-01_{series}_desc-ratio_ratiomap.nii.gz').dataobj)
        high = np.asarray(nib.load(anat / f'sub-01_{series}_label-high_mask.nii.gz').dataobj)
        mask = np.asarray(nib.load(anat / f'sub-01_{series}_desc-brain_mask.nii.gz').dataobj) > 0
        peak = found['peaks']['ratio'].max()
        np.testing.assert_array_equal(high > 0, mask & (ratio > 0.5 * peak))
        assert found['reader']['peak'].tolist() == pytest.approx([peak])
        assert found['reader']['hematocrit'].tolist() == [0.41]
        assert found['asker']['counted'].tolist() == found['reader']['n_voxels'].tolist() == [high.sum()]
        assert found['asker']['share'].tolist() == pytest.approx([high[mask].mean()])
    assert 'High flow was outlined.' in (job.out / 'sub-01.html').read_text()


def test_images_have_names_and_sidecars_of_their_own(job):
    anat = job.out / 'sub-01' / 'anat'
    names = ('label-high_mask', 'desc-levels_dseg', 'Sharemap', 'desc-reader_stats')
    sidecars = {
        name: json.loads(
            (anat / f'sub-01_acq-first_{name}.json').read_text(),
            parse_constant=lambda word: pytest.fail(word),
        )
        for name in names
    }
    lookup = pd.read_csv(anat / 'sub-01_acq-first_desc-levels_dseg.tsv', sep='\t')
    assert lookup.to_dict('list') == {'index': [1, 2], 'name': ['low', 'high']}
    source = sidecars['label-high_mask']['Sources'][0]
    assert source.startswith('bids:raw:sub-01/anat/sub-01_acq-first_echo-1')
    assert sidecars['label-high_mask']['Type'] == 'ROI'
    for name in ('label-high_mask', 'desc-levels_dseg'):
        assert sidecars[name]['SpatialReference'] == source
    assert sidecars['Sharemap']['SkullStripped'] is True
    constants = {
        'hematocrit': {'value': 0.41, 'source': 'participants.tsv'},
        'share': 0.5,
        'lowest': None,
    }
    assert [content['Constants'] for content in sidecars.values()] == [constants] * 4
    page = (job.out / 'sub-01.html').read_text()
    assert page.count('High flow per iron: constants and assumptions</') >= 2


def test_what_was_written_is_valid_bids(job):
    pytest.importorskip('bids_validator_deno')
    tool = Path(sys.executable).parent / 'bids-validator-deno'
    ran = subprocess.run([tool, job.out, '--format', 'json'], capture_output=True, text=True, check=False)
    issues = json.loads(ran.stdout)['issues']['issues']
    assert [issue for issue in issues if issue['severity'] == 'error'] == []
    of_masks = [one for one in issues if 'label-high' in one.get('location', '')]
    assert [one for one in of_masks if one['code'].startswith('SIDECAR_KEY')] == []


def test_series_of_a_session_are_taken_together(job):
    table = pd.read_csv(job.out / 'sub-01' / 'anat' / 'sub-01_desc-joint_stats.tsv', sep='\t')
    assert table['series'].tolist() == ['again', 'first']
    # the flow map is the T1w, brought onto either grid
    assert table['flow'].between(0.3, 1).all()
    assert (job.out / 'sub-01' / 'anat' / 'sub-01_desc-mean_Chimap.nii.gz').exists()
    # the viewer shows it as a layer of the first series, whose grid it has
    (volumes,) = (job.out / 'sub-01' / 'figures').glob('*_desc-viewerjoint_volumes.json')
    assert volumes.name.startswith('sub-01_acq-again_')
    viewer, troubles = build_viewer(job.out / 'sub-01', ['sub-01_acq-again', 'sub-01_acq-first'])
    assert troubles == []
    first, other = viewer['content']
    (shown,) = (one for one in first['maps'] if one['title'] == 'Mean of the series')
    image = nib.load(job.out / 'sub-01' / 'anat' / 'sub-01_desc-mean_Chimap.nii.gz')
    packed = unpacked(base64.b64decode(viewer['blocks'][shown['data']]), tuple(shown['shape']))
    inside = np.argwhere(packed != NOTHING)[::97]
    at = nib.affines.apply_affine(np.linalg.inv(image.affine) @ shown['affine'], inside)
    near = np.rint(at).astype(int)
    np.testing.assert_allclose(at, near, atol=1e-3)
    values = packed[tuple(inside.T)] * shown['step']
    np.testing.assert_allclose(values, image.get_fdata()[tuple(near.T)], atol=0.51 * shown['step'])
    assert 'Mean of the series' not in [one['title'] for one in other['maps']]


def run_file(job, end, own=True):
    root = job.out if own else job.root / 'fmriprep'
    return root / 'sub-01' / 'func' / f'{prepared.STEM}_{end}'


def test_a_run_gets_its_veins_in_its_own_space(job):
    share = nib.load(run_file(job, 'label-vein_probseg.nii.gz'))
    bold = nib.load(run_file(job, 'desc-preproc_bold.nii.gz', own=False))
    assert share.shape == bold.shape[:3]
    np.testing.assert_allclose(share.affine, bold.affine)
    # the map of veins, which lies 5 mm off, is where the run has it
    of_series = nib.load(job.out / 'sub-01' / 'anat' / 'sub-01_acq-again_desc-share_probseg.nii.gz')
    middle = []
    for image in (share, of_series):
        data = np.asarray(image.dataobj)
        middle.append(nib.affines.apply_affine(image.affine, np.argwhere(data > 0.3)).mean(0))
    to_anat = load_xfm(job.nodes / 'sub_01_wf/acq_again_wf/align_wf/rigid/xfm.txt')[0]
    there = np.linalg.inv(to_anat) @ np.r_[middle[1], 1]
    np.testing.assert_allclose(there[:3] - middle[0], [-prepared.SHIFT, 0, 0], atol=1.5)
    exclude = np.asarray(nib.load(run_file(job, 'label-vein_desc-exclude_mask.nii.gz')).dataobj) > 0
    assert exclude[np.asarray(share.dataobj) > 0.1].all()
    grey = np.asarray(nib.load(run_file(job, 'label-GM_desc-devein_mask.nii.gz')).dataobj) > 0
    assert not (grey & exclude).any()
    about = json.loads(run_file(job, 'label-vein_desc-exclude_mask.json').read_text())
    assert about['SpatialReference'] == f'bids:fmriprep:sub-01/func/{prepared.STEM}_desc-coreg_boldref.nii.gz'


def test_a_run_gets_regressors_beside_those_of_fmriprep(job):
    """Same name, same rows, names that nilearn does not take for its own, facts as fMRIPrep states them."""
    path = run_file(job, 'desc-confounds_timeseries.tsv')
    given = run_file(job, 'desc-confounds_timeseries.tsv', own=False)
    own, theirs = (pd.read_csv(one, sep='\t') for one in (path, given))
    assert len(own) == len(theirs) == prepared.FRAMES
    names = [name for name in own if name.startswith('vein_comp_cor_')]
    assert names
    assert not set(own) & set(theirs)
    assert np.argwhere(own.isna().to_numpy()).tolist() == [[0, [*own].index('vein_mean_derivative1')]]
    assert (own[names].iloc[0] == 0).all()
    about = json.loads(path.with_suffix('.json').read_text())
    assert set(about) == set(own)
    assert about['vein_comp_cor_00']['Mask'] == 'vein'
    for method in prefix_compcor:
        assert find_compcor(about, method, 'all') == []
    row = pd.read_csv(run_file(job, 'desc-veins_stats.tsv'), sep='\t').iloc[0]
    assert row['cosines_of_fmriprep']
    assert row['r_vein_task_max'] > 0.3
    assert 'follows the task' in row['warning']
    page = (job.out / 'sub-01.html').read_text()
    for said in ('its regressors would remove activation', 'Veins on the run', 'Veins in the BOLD run'):
        assert said in page


def test_a_raw_run_is_aligned_here_and_gets_masks_alone(job):
    func = job.out / 'sub-01' / 'func'
    made = sorted(path.name for path in func.glob('sub-01_task-raw_*.*'))
    assert made == sorted(
        f'sub-01_task-raw_{end}'
        for name, kind in (
            ('label-vein_desc-exclude_mask', '.nii.gz'),
            ('label-vein_probseg', '.nii.gz'),
            ('desc-veins_stats', '.tsv'),
        )
        for end in (f'{name}{kind}', f'{name}.json')
    )
    about = json.loads((func / 'sub-01_task-raw_label-vein_probseg.json').read_text())
    assert 'aligned to the anatomical image here' in about['Alignment']
    # both runs are of one head, in one place
    own, other = (
        np.asarray(nib.load(func / f'sub-01_task-{task}_label-vein_probseg.nii.gz').dataobj)
        for task in ('raw', 'stimulus')
    )
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.9
    page = (job.out / 'sub-01.html').read_text()
    assert 'was not prepared by fMRIPrep: it is aligned here' in page
    assert 'BOLD run and anatomical image' in page


def test_nilearn_leaves_veins_out_as_in_the_example(job, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'examples')
    import fmri_without_veins

    events = job.data / 'sub-01' / 'func' / f'{prepared.STEM}_events.tsv'
    arguments = [str(job.root / 'fmriprep'), str(job.out), str(events), '01', 'stimulus']
    exclude = np.asarray(nib.load(run_file(job, 'label-vein_desc-exclude_mask.nii.gz')).dataobj) > 0
    for more, least, most in (([], 2, 20), (['--regressors'], -1, 1)):
        fmri_without_veins.main([*arguments, str(job.root / 'z.nii.gz'), *more])
        z = np.asarray(nib.load(job.root / 'z.nii.gz').dataobj)
        assert (z[exclude] == 0).all()
        half = z.shape[0] // 2
        left, right = (np.median(side[side != 0]) for side in (z[:half], z[half:]))
        assert -1 < right < 1
        # regressors remove the response, as the table of the run warns
        assert least < left < most


def test_the_settings_of_xcp_d_find_both_tables(job):
    """As XCP-D reads them: files by the entities of the run and the query, columns by name or expression."""
    settings = yaml.safe_load((job.out / 'xcp_d_veins.yaml').read_text())
    assert set(settings) == {'name', 'description', 'confounds'}
    roots = {'preprocessed': job.root / 'fmriprep', 'vein': job.out}
    found = {}
    for name, one in settings['confounds'].items():
        assert set(one) == {'dataset', 'query', 'columns'}
        layout = BIDSLayout(roots[one['dataset']], validate=False, config=['bids', 'derivatives'])
        query = {key: value for key, value in one['query'].items() if value is not None}
        (path,) = layout.get(subject='01', task='stimulus', datatype='func', return_type='file', **query)
        columns = pd.read_csv(path, sep='\t').columns
        found[name] = [c for c in columns if any(re.match(pattern, c) for pattern in one['columns'])]
        assert all(pattern.startswith('^') and pattern.endswith('$') for pattern in one['columns'])
    assert found['preproc_confounds'][-1] == 'cosine00'
    assert len(found['preproc_confounds']) == 7
    assert found['vein_confounds']
    assert all(c.startswith('vein_comp_cor_') for c in found['vein_confounds'])


def test_its_rows_get_group_statistics(job):
    """Five more participants, made of the one that was run."""
    own = job.out / 'sub-01' / 'anat'
    for number in range(2, 7):
        anat = job.out / f'sub-0{number}' / 'anat'
        anat.mkdir(parents=True)
        for path in own.glob('*_stats.*'):
            copy = anat / path.name.replace('sub-01', f'sub-0{number}')
            shutil.copy(path, copy)
            if copy.name.endswith('desc-toy_stats.tsv'):
                table = pd.read_csv(copy, sep='\t')
                table['mean'] *= 1 + 0.5 * (number % 2) + 0.01 * number
                table.to_csv(copy, sep='\t', index=False, na_rep='n/a')
    people = 'participant_id\tgroup\n' + ''.join(f'sub-0{n}\t{"ab"[n % 2]}\n' for n in range(1, 7))
    (job.data / 'participants.tsv').write_text(people)
    assert cli.main([str(job.data), str(job.out), 'group', '--model', 'ratio ~ group']) == 0
    model = pd.read_csv(job.out / 'group' / 'model.tsv', sep='\t')
    found = model[(model['map'] == 'ratio') & (model['region'] == 'Brain')]
    assert (found['estimate'] > 0).all()
    assert len(found)
    page = (job.out / 'group.html').read_text()
    assert 'ratio' in page
    # rows of the second table enter as its function says, and all of them are listed
    long = pd.read_csv(job.out / 'group_regions.tsv', sep='\t')
    peaks = pd.read_csv(job.out / 'group_toy_peaks.tsv', sep='\t')
    assert len(peaks) == 12
    assert sorted(long.loc[long['map'] == 'peak', 'mean']) == pytest.approx(sorted(peaks['ratio']))
    assert 'Peaks of flow per iron' in page
    described = json.loads((job.out / 'group_regions.json').read_text())
    assert described['dose'] == {'Description': 'Sum of doses.', 'Units': 'mg'}


def test_what_lacks_its_input_is_left_out_and_said(job, capsys):
    (job.data / 'sub-01' / 'perf' / 'sub-01_cbf.nii.gz').rename(job.root / 'kept.nii.gz')
    assert cli.main([*job.arguments('--toy'), '--dry-run']) == 0
    assert 'Flow per iron: left out, as there is no flow map' in capsys.readouterr().out
    (job.data / 'sub-01' / 'perf' / 'sub-01_cbf.nii.gz').write_bytes(b'nonsense')
    assert cli.main([*job.arguments('--toy'), '--dry-run']) == 0
    said = capsys.readouterr().out
    assert 'A flow map is not used: sub-01_cbf.nii.gz cannot be read' in said
    assert 'Flow per iron: left out, as there is no flow map' in said
    assert cli.main([*job.arguments('--asker', '--reader'), '--dry-run']) == 0
    said = capsys.readouterr().out
    assert 'High flow per iron: left out, as it uses the results of Flow per iron, which is left out' in said
    assert 'Share of high flow: there are no results of High flow per iron; it is done without' in said
    (job.data / 'sub-01' / 'perf' / 'sub-01_cbf.nii.gz').unlink()
    (job.root / 'kept.nii.gz').rename(job.data / 'sub-01' / 'perf' / 'sub-01_cbf.nii.gz')
    (job.data / 'sub-01' / 'perf' / 'sub-01_doses.tsv').write_bytes(b'dose\n1\t2\n1\t2\t3\n')
    assert cli.main([*job.arguments('--toy'), '--dry-run']) == 0
    assert 'A table of doses is not used: sub-01_doses.tsv is no table' in capsys.readouterr().out
    assert application('toy').arguments['flow']
    # participants.tsv is read where an application asks for it
    (job.data / 'participants.tsv').write_bytes(b'')
    assert cli.main([*job.arguments('--toy'), '--dry-run']) == 0
    capsys.readouterr()
    assert cli.main([*job.arguments('--reader'), '--dry-run']) != 0
    assert 'participants.tsv is no table of tab-separated values' in capsys.readouterr().err
