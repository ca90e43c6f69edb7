"""Estimates of time and memory follow the sizes of the images, and agree with what was measured."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bids_qsm.app.methods import Method, registries
from bids_qsm.app.options import Options
from bids_qsm.app.participant import build_graph
from bids_qsm.app.plan_tree import describe_plan
from bids_qsm.execution import estimates
from bids_qsm.execution.progress import duration, stage_of
from bids_qsm.execution.slurm_scripts import CAUTION, START, _seconds
from bids_qsm.execution.subjects import expanded
from bids_qsm.interfaces.measure import Measure
from bids_qsm.layout.series import Use
from bids_qsm.workflows.applications import memories_of
from tests.plugins.little import write_plugin
from tests.skeletons import write_series, write_t1w

T1W = (192, 240, 208)
MEASURED = [
    # shape, echoes, T1w image, processor seconds by stage of whole runs with the default options
    (
        (80, 80, 53),
        2,
        (170, 256, 256),
        {'phase': 0.8, 'chi': 2.3, 'labels': 10.7, 'anatomy': 60.7},
    ),
    ((96, 112, 88), 3, None, {'phase': 2.2, 'field': 0.8, 'chi': 7.4, 'labels': 12.1, 'anatomy': 20.8}),
    ((128, 150, 118), 4, T1W, {'phase': 4.6, 'field': 2.3, 'chi': 12.4, 'labels': 17.0, 'anatomy': 64.2}),
    ((192, 224, 176), 5, (192, 240, 208), {'phase': 10, 'labels': 26, 'anatomy': 63}),
]


@pytest.fixture
def planned(data, find, templates, templates_once):  # noqa: ARG001
    write_series(data, shape=(40, 44, 36))
    write_t1w(data)
    plan = find(work_dir=templates)
    options = Options(
        bids_dir=data, output_dir=data.parent / 'out', level='participant', work_dir=templates, nprocs=2
    )
    return options, plan


def test_memory_of_a_stage_is_that_of_its_largest_step(planned):
    options, plan = planned
    flat = expanded(build_graph(options, plan)[0])
    largest = {}
    for node in flat:
        step = re.sub(r'.*sub_01_wf\.(series_(phase_)?wf\.)?', '', node.fullname)
        step = f'phase_wf.{step}' if '.series_phase_wf.' in node.fullname else step
        stage = stage_of(step)
        largest[stage] = max(largest.get(stage, 0), node.mem_gb)
    (one,) = plan.series
    found = {'anatomy': estimates.of_anatomy(one, options), **estimates.of_stages(one, options)}
    assert set(found) == set(largest)
    for stage in ('phase', 'field', 'chi', 'labels', 'anatomy'):
        assert found[stage].gb == pytest.approx(largest[stage], rel=0.01), stage


def test_memory_of_applications_is_that_of_the_graph(data, find, templates, templates_once):  # noqa: ARG001
    """Of one series, of a segmentation, and of all series of a session."""
    for acquisition in ('a', 'b'):
        write_series(data, entities=f'acq-{acquisition}', shape=(40, 44, 36))
    write_t1w(data)
    asked = tuple(Method(name) for name in ('veins', 'oximetry', 'candidates', 'cosmos', 'separation'))
    plan = find(work_dir=templates, applications=asked)
    options = Options(
        bids_dir=data,
        output_dir=data.parent / 'out',
        level='participant',
        work_dir=templates,
        applications=asked,
    )
    flat = expanded(build_graph(options, plan)[0])
    of_graph = [node.mem_gb for node in flat if isinstance(node.interface, Measure)]
    found = memories_of(plan.series, options)
    assert sorted(found.values()) == pytest.approx(sorted(of_graph))
    assert {'sub-01_acq-a, regions', 'sub-01_acq-b, veins', 'sub-01, cosmos'} < {*found}
    cost, _ = estimates.of_subject([*plan.series], options)
    assert cost.gb >= max(found.values())


@pytest.mark.parametrize(('shape', 'echoes', 't1w', 'seconds'), MEASURED)
def test_time_agrees_with_what_was_measured(planned, shape, echoes, t1w, seconds):
    options, plan = planned
    times = tuple(0.004 * (n + 1) for n in range(echoes))
    one = replace(plan.series[0], shape=shape, anat_shape=t1w, echo_times=times)
    found = {'anatomy': estimates.of_anatomy(one, options), **estimates.of_stages(one, options)}
    for stage, measured in seconds.items():
        assert found[stage].seconds == pytest.approx(measured, rel=0.35, abs=1), stage


def test_what_is_given_costs_nothing_and_slow_methods_more(planned):
    options, plan = planned
    (one,) = plan.series
    mapped = replace(one, template_xfm=((options.output_spaces[0], None, None),))
    saved = estimates.of_anatomy(one, options).seconds - estimates.of_anatomy(mapped, options).seconds
    assert saved == estimates.REGISTER_SECONDS['T1w']
    given = replace(one, given=(SimpleNamespace(port='chi'),))
    assert set(estimates.of_stages(given, options)) == {'phase', 'labels', 'report'}
    slow = Options.from_settings(
        {'bids_dir': options.bids_dir, 'output_dir': options.output_dir, 'level': 'participant'}
        | {'inversion': 'tgv'}
    )
    usual = estimates.of_stages(one, options)['chi'].seconds
    assert estimates.of_stages(one, slow)['chi'].seconds > usual


def test_more_cpus_help_until_the_longest_participant(planned):
    options, plan = planned
    many = [replace(plan.series[0], subject=str(n)) for n in range(12)]
    times = [estimates.of_run(many, replace(options, nprocs=n, work_dir=None)).seconds for n in (1, 4, 400)]
    longest = estimates.of_subject(many[:1], options)[1]
    assert times[0] > times[1] > times[2] == pytest.approx(estimates.START_SECONDS + longest)


def test_every_method_mask_and_plugin_has_an_estimate(planned, tmp_path):
    options, plan = planned
    (one,) = plan.series
    mask = {
        'inputs': [{'tensor': 'field', 'channels': [{'data': 'magnitude'}]}],
        'output': {'tensor': 'chi', 'unit': 'probability'},
    }
    plugins = {
        step: write_plugin(tmp_path / step, step=step, **(mask if step == 'mask' else {}))
        for step in ('inversion', 'background', 'mask')
    }
    choices = [(step, name) for step, own in registries().items() for name in own]
    choices += [('mask', 'file'), *((step, f'onnx:{folder}') for step, folder in plugins.items())]
    drawn = replace(one, mask=one.files[0])
    maps = replace(one, given=(SimpleNamespace(port='chi'),))
    for step, name in choices:
        own = replace(options, work_dir=None, **{step: Method(name)})
        for series in (one, drawn, maps, replace(one, echo_times=(0.004,))):
            assert estimates.of_run([series], own).gb > 0, (step, name)
            assert ('field' in estimates.of_stages(series, own)) == (series is not maps)


def test_what_is_asked_for_but_not_counted_is_named(planned):
    options, plan = planned
    (one,) = plan.series
    assert estimates.not_counted(plan.series, options) == []
    own = replace(options, work_dir=None, mask=Method('hdbet'), registration=Method('greedy'))
    brain, engine, name = estimates.not_counted([replace(one, applications=(Use('veins', (), ()),))], own)
    assert brain == 'HD-BET (counted as the brain by the template)'
    assert engine == 'registration by greedy (counted as by dipy)'
    assert name == 'veins'
    given = replace(one, brain_mask=one.files[0], template_xfm=((options.output_spaces[0], None, None),))
    assert estimates.not_counted([given], own) == []


def test_time_limits_leave_room_and_count_applications(planned):
    options, plan = planned
    one, options = plan.series[0], replace(options, work_dir=None, nprocs=4)
    for shape, echoes, t1w, seconds in MEASURED:
        times = tuple(0.004 * (n + 1) for n in range(echoes))
        sized = replace(one, shape=shape, anat_shape=t1w, echo_times=times)
        many = replace(plan, series=tuple(replace(sized, subject=str(n)) for n in range(20)))
        asked = START + CAUTION * _seconds(options, many, [[one.subject for one in many.series]])
        # on nodes of half the speed, as others are busy, and with a core that waits
        assert asked >= 2 * 1.5 * 20 * sum(seconds.values()) / 4
    asked = replace(plan, series=(replace(one, applications=(Use('veins', (), ()),)),))
    more = _seconds(options, asked, [[one.subject]]) - _seconds(options, plan, [[one.subject]])
    assert more == pytest.approx(estimates.APPLICATION_SECONDS)


HOST = 'node-1'


def write_log(
    options, one, *, name='run', host=HOST, measured=lambda seconds: {'cpu_seconds': 3 * seconds}, **own
):
    """The log of a run whose steps took three times their estimates, on a machine where much else ran."""
    log = options.output_dir / 'logs' / name
    log.mkdir(parents=True)
    costs = estimates.of_stages(one, options)
    steps = {'phase_wf.offset': 'phase', 'recon_wf.field_wf.fit': 'field', 'outputs_wf.save': 'report'}
    steps |= {'recon_wf.refer': 'chi', 'labels_wf.refine_labels': 'labels'}
    events = [{'event': 'run', 'pid': 0, 'host': host}, {'event': 'plan', 'series': [one.name]}]
    events += [{'event': 'add', 'series': one.name, 'n_steps': 6} | own.pop('add', {})]
    events += [
        {'event': 'end', 'series': one.name, 'step': step, 'seconds': 1e3} | measured(costs[stage].seconds)
        for step, stage in steps.items()
    ]
    events += [{'event': 'end', 'series': one.name, 'step': 'applications_wf.veins', 'seconds': 1e4}]
    events += [{'event': 'done', 'series': one.name}, {'event': 'close', 'status': 0}]
    text = ''.join(json.dumps({'time': n, **event}) + '\n' for n, event in enumerate(events))
    (log / 'events.jsonl').write_text(own.get('text', text))
    (log / 'config.toml').write_text(replace(options, work_dir=None, **own.get('settings', {})).to_toml())


def test_earlier_runs_say_how_fast_this_machine_is(planned):
    options, plan = planned
    assert estimates.pace_of_log(plan.series, options) == estimates.Pace()
    (one,) = plan.series
    write_log(options, one)
    write_log(options, one, name='slow', settings={'inversion': Method('tgv')})
    write_log(options, one, name='coarse', settings={'voxel_size': '3'})
    assert estimates.pace_of_log(plan.series, options) == estimates.Pace(pytest.approx(3), 1, (HOST,))
    plain = estimates.of_run(plan.series, options).seconds
    assert f'About {duration(3 * plain)} from nothing' in describe_plan(options, plan)
    said = (
        'by the processor time that 1 series took in earlier runs into this folder with these methods on node'
    )
    assert said in describe_plan(options, plan)


@pytest.mark.parametrize(
    ('broken', 'is_told'),
    [
        ({'measured': lambda _: {'seconds': float('nan')}}, True),
        ({'measured': lambda _: {'seconds': -500}}, True),
        ({'measured': lambda _: {'seconds': 'long'}}, True),
        ({'measured': lambda _: {'seconds': 1e9}}, False),
        ({'measured': lambda _: {'seconds': 0}}, False),
        ({'add': {'n_steps': 'six'}}, True),
        ({'add': {'n_steps': 60}}, False),  # most of its steps were done before
        ({'add': {'steps': [1]}}, True),
        ({'text': '{"event": "run", "time": 0, "place": "a", "born": 1}\n'}, True),
        ({'text': '[]\n\0\n'}, True),
        ({'text': ''}, True),
    ],
)
def test_damaged_and_foreign_logs_do_not_count(planned, broken, is_told):
    options, plan = planned
    write_log(options, plan.series[0], name='broken', **broken)
    found = estimates.pace_of_log(plan.series, options)
    assert (found.times, found.n_series) == (1.0, 0)
    assert ('1 log of earlier runs in ' in found.note) == is_told
    assert (found.note in describe_plan(options, plan)) if is_told else not found.note
    write_log(options, plan.series[0], measured=lambda seconds: {'seconds': 2 * seconds})
    if 'add' not in broken and 'measured' not in broken:  # the series of a newer run
        assert estimates.pace_of_log(plan.series, options).times == pytest.approx(2)


def test_the_newest_logs_that_suffice_are_read(planned, monkeypatch):
    """Of thousands, as of an array, those of other series and older ones are not."""
    options, plan = planned
    (one,) = plan.series
    for n in range(6):
        write_log(options, one, name=f'run{n}', measured=lambda seconds, n=n: {'seconds': (n + 1) * seconds})
    write_log(options, replace(one, subject='9', entities=(('sub', '9'),)), name='run9')
    read, read_run = [], estimates.read_run

    def counted(folder, **more):
        read.append(folder.name)
        return read_run(folder, **more)

    monkeypatch.setattr(estimates, 'read_run', counted)
    monkeypatch.setattr(estimates, 'ENOUGH', 1)
    assert estimates.pace_of_log(plan.series, options).times == pytest.approx(6)
    assert read == ['run5']
    monkeypatch.setattr(estimates, 'ENOUGH', 2)
    monkeypatch.setattr(estimates, 'MOST_LOGS', 4)
    read.clear()
    assert estimates.pace_of_log(plan.series, options).n_series == 1
    assert read == ['run5', 'run4', 'run3', 'run2']
