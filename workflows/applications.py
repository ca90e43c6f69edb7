"""The applications of a series: one node each, wired by what their declarations name."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces.utility import Merge

import bids_qsm
from bids_qsm.applications import application, modules
from bids_qsm.applications.contract import BACKGROUNDS, Application, Variant
from bids_qsm.biomarkers.consensus.processing import AS_GIVEN
from bids_qsm.derivatives.products import PRODUCTS, is_one_step, products_of
from bids_qsm.interfaces.measure import FILES, Measure, outputs_of
from bids_qsm.plugins import is_plugin
from bids_qsm.plugins.methods import find_method, plugin_files
from bids_qsm.recon.inversion import INVERSION
from bids_qsm.recon.registry import facts
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.labels import is_refined, to_template_invert
from bids_qsm.workflows.memory import Sizes, need

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.layout.bold_run import BoldRun
    from bids_qsm.layout.series import Series, Use
    from bids_qsm.templates.atlases import Atlas


@dataclass(frozen=True)
class Run:
    """An application that runs on a series: with the labels of the atlas, or those of a segmentation."""

    use: 'Use'
    labels: str = ''
    """Name of the segmentation; empty for the atlas."""
    bold: 'BoldRun | None' = None
    """BOLD run that it runs on, in the scope run."""

    @property
    def app(self) -> Application:
        return application(self.use.name)

    @property
    def variant(self) -> Variant:
        return self.app.variant(dict(self.use.params))

    @property
    def files(self) -> list[str]:
        """Ports of `Measure` that hold files it needs."""
        return files_of(self.app, self.variant.spares)

    @property
    def name(self) -> str:
        if self.bold is not None:
            return f'{self.use.name}_{run_label(self.bold)}'
        return f'{self.use.name}_{self.labels}' if self.labels else self.use.name

    @property
    def outputs(self) -> dict[str, str]:
        """Output of the node -> port outside of it. Figures show the labels of the atlas."""
        ports = (p for p in outputs_of(self.app) if not (self.labels and p.startswith('figure_')))
        return {port: f'{self.name}_{port}' for port in ports}


def runs_of(series: 'Series', scope: tuple[str, ...] = ('series', 'labels', 'run')) -> Iterator[Run]:
    """What runs on a series, of those applications that have a ``scope``."""
    for use in series.applications:
        kind = application(use.name).scope
        if kind == 'run' and kind in scope:
            yield from (Run(use, bold=one) for one in use.runs)
        elif kind in scope:
            yield Run(use)
            yield from (Run(use, one.name) for one in series.segmentations if kind == 'labels')


def files_of(app: Application, spares: Sequence[str] = ()) -> list[str]:
    """Ports of `Measure` that hold files an application needs, without arguments that it ``spares``."""
    named = set(app.arguments) - set(spares)
    wanted = {
        *(
            port
            for figure in app.figures
            if figure.over and not app.of_runs
            for port in (figure.over, *BACKGROUNDS)
        ),
        *(name for figure in app.figures for name in figure.takes if name in PRODUCTS),
        *(port for port, one in PRODUCTS.items() if 'maps' in named and one.column),
        *(['mask'] if app.figures or named & {'grid', 'affine'} else []),
        *(['own_dseg'] if 'labels' in named else []),
    }
    return [port for port in FILES if port in named | wanted]


def run_label(bold: 'BoldRun') -> str:
    """Name of a run without its subject, of letters, digits and underscores."""
    return re.sub(r'\W', '', '_'.join(key + value for key, value in bold.entities if key != 'sub'))


def run_port(bold: 'BoldRun') -> str:
    """Port of the transform of a BOLD run that is aligned here."""
    return f'run_to_anat_{run_label(bold)}'


def mean_port(bold: 'BoldRun') -> str:
    """Port of the mean of a BOLD run that is aligned here."""
    return f'run_mean_{run_label(bold)}'


def own_port(name: str, query: str) -> str:
    """Port of the transform of an extra image that is aligned by itself."""
    return f'{query}_to_anat_{name}'


def alignment_ports(series: 'Series') -> dict[str, Path]:
    """Port -> image that is aligned with the anatomical image for the applications of a series."""
    ports: dict[str, Path] = {}
    if any(one.space == 'flair' for one in series.inputs):
        ports['flair_to_anat'] = series.flair
    for use in series.applications:
        for one in use.inputs:
            if one.space == 'own':  # of a train, its first echo
                ports.setdefault(own_port(use.name, one.query), one.path)
        ports |= {run_port(one): one.bold for one in use.runs if one.is_raw}
    return ports


def mean_ports(series: 'Series') -> dict[str, Path]:
    """Port -> BOLD run whose mean the applications of a series get, as it was made to align the run."""
    return {mean_port(one): one.bold for use in series.applications for one in use.runs if one.is_raw}


FITTED = (
    'A diffusion tensor was fitted to one shell of the diffusion images by weighted least squares [@dipy]; '
    'their motion, eddy currents and distortion were not corrected here.'
)
PARTS_OF_FIT = ('fa', 'tensor', 'facts')
"""Outputs of `FitTensor` that applications get."""


def fit_ports(series: 'Series') -> dict[str, tuple[Path, str]]:
    """Port -> diffusion images that a tensor is fitted to, and which of `PARTS_OF_FIT` it is."""
    return {
        f'{part}_of_{one.query}_{use.name}': (one.path, part)
        for use in series.applications
        for one in use.inputs
        if one.gradients is not None
        for part in PARTS_OF_FIT
    }


def label_inputs_of(series: 'Series') -> list[str]:
    """Ports of the participant's segmentations that applications need."""
    runs = [run for run in runs_of(series) if run.labels]
    needed = (f'{port}_{run.labels}' for run in runs for port in _LABELS if port in run.files)
    return list(dict.fromkeys(needed))


def application_inputs(series: 'Series') -> list[str]:
    """Ports that the applications of a series need, beside those of its segmentations."""
    needed = {port for run in runs_of(series) for port in run.files}
    is_placed = any(one.space not in ('gre', 'table') for one in series.inputs)
    placed = {'gre_to_anat'} if is_placed or any(run.bold for run in runs_of(series)) else set()
    files = (port for port in (*FILES, 'gre_to_anat') if port in needed | placed)
    return [*files, *alignment_ports(series), *mean_ports(series), *fit_ports(series)]


def init_applications_wf(
    *,
    series: 'Series',
    options: 'Options',
    atlas: 'Atlas',
    ports: list[str],
    name: str = 'applications_wf',
):
    """Run the applications of a series.

    Inputs: those of ``ports`` (`application_inputs`, without what the series does not give), and dseg_<name>,
    labels_<name>, own_dseg_<name> of segmentations. Outputs: <run>_<port> as `Run.outputs` names them.
    """
    workflow = pe.Workflow(name=name)
    runs = list(runs_of(series))
    of_labels = label_inputs_of(series)
    inputnode = pe.inputnode(*ports, *of_labels)
    outputnode = pe.outputnode(*(port for run in runs for port in run.outputs.values()))
    made = (*alignment_ports(series), *mean_ports(series), *fit_ports(series))
    alignments = {port: (inputnode, port) for port in made}
    for port, of_atlas in atlas_files(options).items():
        if port in ports:
            setattr(inputnode.inputs, port, str(getattr(atlas, of_atlas)))
    nodes = {run.name: application_node([run], [series], options, run.labels or atlas.name) for run in runs}
    for run in runs:
        node = nodes[run.name]
        for port in run.files:
            source = f'{port}_{run.labels}' if run.labels and port in (*_LABELS, 'probseg') else port
            if source in (*ports, *of_labels):
                workflow.link(inputnode, node, **{port: source})
        if run.bold or any(one.space in ('anat', 'flair', 'own') for one in run.use.inputs):
            workflow.link(inputnode, node, 'gre_to_anat')
        link_alignments(workflow, node, run, alignments)
        for argument, (other, output) in run.app.of_others.items():
            if other in nodes:
                workflow.link(nodes[other], node, **{argument: output})
        workflow.link(node, outputnode, **{outside: port for port, outside in run.outputs.items()})
    said = [FITTED] if fit_ports(series) else []
    said += [run.variant.method for run in runs if run.variant.method]
    workflow.__desc__ = ' '.join(dict.fromkeys(said))
    return workflow


_LABELS = ('dseg', 'labels', 'own_dseg')
"""Ports that a segmentation of the participant has too."""
ATLAS = {'labels': 'labels', 'own_dseg': 'dseg'}
"""Ports of the labels of the atlas that may be files of its own."""


def atlas_files(options: 'Options') -> dict[str, str]:
    """Port of the labels of the atlas -> its file; the table of segmented nuclei is not one of the atlas."""
    return {port: name for port, name in ATLAS.items() if port != 'labels' or not is_refined(options)}


def application_node(
    runs: Sequence[Run], series_list: 'Sequence[Series]', options: 'Options', atlas: str
) -> pe.Node:
    """The node of an application on one series, or on several of a session, each with its run."""
    run, app = runs[0], runs[0].app
    node = pe.Node(
        Measure(
            application=modules()[run.use.name],
            params=dict(run.use.params),
            series=[
                {
                    **_described(app, one, options, atlas),
                    'entities': dict(one.entities),
                    'echo_times': list(one.echo_times),
                    'field_strength': one.field_strength,
                    'levelled': 'slow_sd' in _products_of(one, options),
                    'inversion': None
                    if 'chi' in one.given_ports
                    else (options.inversion.name, options.inversion.as_dict),
                    'atlas': atlas,
                    'participant': dict(own.use.participant),
                }
                for own, one in zip(runs, series_list, strict=True)
            ],
            invert=to_template_invert(options),
            extra=[_extra(one.use) for one in runs],
            others={name: application(of).kind(output) for name, (of, output) in app.of_others.items()},
        ),
        name=run.name,
        mem_gb=memory_of(run, series_list, options),
    )
    if run.bold is not None:
        node.inputs.run = run.bold.paths
    named = [value for _, value in run.use.params if isinstance(value, str) and is_plugin(value)]
    if named:
        node.inputs.plugin_files = [path for name in named for path in plugin_files(name)]
    return node


def memory_of(run: Run, series_list: 'Sequence[Series]', options: 'Options') -> float:
    """Memory (GB) of an application on one series, or on several of a session."""
    of_many = run.app.memory_of_many if run.labels else None
    memories = [of_many or run.variant.memory]
    if 'inversion' in run.app.arguments:  # it runs that of the series again
        memories.append(facts(find_method(INVERSION, options.inversion.name)).memory)
    return sum(
        max(need(one, sizes if run.bold is None else sizes.with_run(run.bold)) for one in memories)
        for sizes in map(Sizes.of, series_list)
    )


def joint_runs(series_list: 'Sequence[Series]') -> 'dict[tuple, list[tuple[Run, Series]]]':
    """The applications that take all series of a session: (session, name) -> those of each series."""
    sessions: dict[tuple, list] = {}
    for series in series_list:
        for run in runs_of(series, ('subject',)):
            sessions.setdefault((series.session, run.name), []).append((run, series))
    return sessions


def memories_of(series_list: 'Sequence[Series]', options: 'Options') -> dict[str, float]:
    """Memory (GB) of the applications of a participant's series, and of tensors that are fitted for them.

    By what runs on what: the series, or the participant, and the application.
    """
    found = {}
    for one in series_list:
        sizes = Sizes.of(one)
        for run in runs_of(one):
            found[f'{one.name}, {run.name}'] = memory_of(run, [one], options)
        for given in one.inputs:
            if given.gradients is not None:
                step = f'{one.name}, the tensor of {given.path.name}'
                found[step] = need('fit_tensor', sizes.with_frames(given.gradients.shape))
        if any(bold.is_raw for use in one.applications for bold in use.runs):
            found[f'{one.name}, the mean of its BOLD runs'] = need('mean', sizes)
    for (session, name), members in joint_runs(series_list).items():
        runs, own = zip(*members, strict=True)
        owner = '_'.join(filter(None, (f'sub-{own[0].subject}', session and f'ses-{session}')))
        found[f'{owner}, {name}'] = memory_of(runs[0], own, options)
    return found


def _described(app: Application, series: 'Series', options: 'Options', atlas: str) -> dict[str, dict]:
    """Sidecar and methods of a series, for applications that take them."""
    known = {'sidecar': dict(series.sidecar), 'methods': methods_of(series, options, atlas)}
    return {name: value for name, value in known.items() if name in app.arguments}


def methods_of(series: 'Series', options: 'Options', atlas: str) -> dict[str, str]:
    """Step -> method and parameters, the software, and the regions, for applications.

    Steps that a map was given instead of are left out; of given susceptibility, the reference is that which
    its sidecar states.
    """
    steps = steps_of(series, options)
    if 'r2star' in series.maps and 'r2star' not in series.given_ports:
        steps += ('r2star',)
    chosen = {step: getattr(options, step) for step in steps}
    texts = {step: one.name if one.name == 'file' else one.label for step, one in chosen.items()}
    of_given = [one.reference for one in series.given if one.port == 'chi' and one.reference]
    if of_given:
        texts['reference'] = of_given[0]
    others = {
        'reference_name': reference_asked(series, options),
        'regions': f'the atlas {atlas}' if series.has_regions else '',
        'software': f'bids_qsm {bids_qsm.__version__}',
    }
    return {**texts, **others}


# how the region of a reference is named where it was found
REFERENCE_NAMES = {'brain': 'whole brain'}


def reference_asked(series: 'Series', options: 'Options') -> str:
    """Region that susceptibility should be relative to: of a map that was given, whatever it says."""
    for one in series.given:
        if one.port == 'chi':
            return one.reference.lower() or AS_GIVEN
    return REFERENCE_NAMES.get(options.reference.name, options.reference.name)


def steps_of(series: 'Series', options: 'Options') -> tuple[str, ...]:
    """Steps that lead to susceptibility here; where a series starts from maps, those left to do."""
    steps, ports = ('mask', 'unwrap', 'field', 'background', 'inversion', 'reference'), series.given_ports
    skipped = {'background'} if is_one_step(options.inversion.name) or 'local_field' in ports else set()
    if ports:
        skipped |= {'mask', 'unwrap', 'field'}
        skipped |= set() if {'local_field', 'field'} & set(ports) else set(steps)
    return tuple(step for step in steps if step not in skipped)


def _products_of(series: 'Series', options: 'Options'):
    return products_of(series, background=options.background.name, inversion=options.inversion.name)


def _extra(use: 'Use') -> dict[str, list[tuple[str, str, str, float | None]]]:
    """Files of each query: path, space, a name that tells files of one name apart, and echo time."""
    found = {}
    names = distinct_names([str(one.path) for one in use.inputs])
    for one, shown in zip(use.inputs, names, strict=True):
        found.setdefault(one.query, []).append((str(one.path), one.space, shown, one.echo_time))
    return found


def link_alignments(
    workflow: pe.Workflow, node: pe.Node, run: Run, sources: 'dict[str, tuple[pe.Node, str]]'
):
    """Link the transforms of extra images to the node of an application.

    ``sources`` maps each port of `alignment_ports`, `mean_ports` and `fit_ports` to the node that has it, and
    its port there.
    """
    if any(one.space == 'flair' for one in run.use.inputs):
        step, port = sources['flair_to_anat']
        workflow.link(step, node, flair_to_anat=port)
    there = {one.query for one in run.use.inputs if one.space == 'own'}
    if run.bold is not None and run.bold.is_raw:
        for own, of_run in (('run_to_anat', run_port(run.bold)), ('run_mean', mean_port(run.bold))):
            step, port = sources[of_run]
            workflow.link(step, node, **{own: port})
    own = [query.name for query in run.app.own if query.name in there]  # in the order of the node
    if own:
        merge = pe.Node(Merge(len(own)), name=f'{node.name}_alignments')
        for i, query in enumerate(own, start=1):
            step, port = sources[own_port(run.use.name, query)]
            workflow.link(step, merge, **{f'in{i}': port})
        workflow.link(merge, node, own_to_anat='out')
    fitted = [one.query for one in run.use.inputs if one.gradients is not None]
    if fitted:
        merge = pe.Node(Merge(len(PARTS_OF_FIT)), name=f'{node.name}_tensor')
        for i, part in enumerate(PARTS_OF_FIT, start=1):
            step, port = sources[f'{part}_of_{fitted[0]}_{run.use.name}']
            workflow.link(step, merge, **{f'in{i}': port})
        workflow.link(merge, node, fitted='out')


def distinct_names(paths: list[str]) -> list[str]:
    """File names, and before them as many folders as tell files of the same name apart.

    >>> distinct_names(['/d/a/anat/x_mask.nii', '/d/b/anat/x_mask.nii', '/d/b/anat/y_mask.nii'])
    ['a/anat/x_mask.nii', 'b/anat/x_mask.nii', 'y_mask.nii']
    """
    parts = [path.strip('/').split('/') for path in paths]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        depth = 1
        while depth < len(own) and any(other[-depth:] == own[-depth:] for other in others):
            depth += 1
        names.append('/'.join(own[-depth:]))
    return names
