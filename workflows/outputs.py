"""Where results go in the output dataset, and what their sidecars say."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.applications import applications
from bids_qsm.applications.contract import FACTS
from bids_qsm.biomarkers.region_columns import dictionary
from bids_qsm.biomarkers.regions import QUALITY
from bids_qsm.derivatives.files import bids_uri, output_path, sidecar
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.derivatives.tables import read_labels
from bids_qsm.entities import acquired_entities, entities_of
from bids_qsm.errors import size_text
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.findings import CollectFindings
from bids_qsm.plugins import is_plugin
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.applications import Run, reference_asked, runs_of, steps_of
from bids_qsm.workflows.field import mask_of
from bids_qsm.workflows.labels import is_refined, label_files
from bids_qsm.workflows.viewer import add_viewer

if TYPE_CHECKING:
    from bids_qsm.app.methods import Method
    from bids_qsm.app.options import Options
    from bids_qsm.applications.contract import Application
    from bids_qsm.layout.series import Series
    from bids_qsm.templates.atlases import Atlas
    from bids_qsm.templates.spaces import Template

SVG = ('gre2t1w', 't1w2template')
"""Figures that are animated; charts of applications are SVG too, all others are PNG."""


def sources_of(series: 'Series', options: 'Options') -> tuple[str, ...]:
    """BIDS URIs of the files of a series."""
    roots = {'raw': options.bids_dir, **dict(options.derivatives)}
    return tuple(bids_uri(path, roots) for path in series.files)


def _chain(series: 'Series', options: 'Options') -> dict[str, str]:
    """The methods that led to susceptibility, by step; where a series starts from maps, those left to do."""
    return {step: getattr(options, step).label for step in steps_of(series, options)}


def _map_sidecars(
    series: 'Series', options: 'Options', ports: Iterable[str], **others: str
) -> dict[str, dict]:
    """Sidecars of maps on the GRE or a template grid."""
    sources = sources_of(series, options)
    field: dict[str, object] = {'MagneticFieldStrength': series.field_strength or None}
    if series.echo_window:
        field['EchoWindow'] = list(series.echo_window)
        field['EchoTimes'] = list(series.echo_times) or None
    if series.resampled:
        field['AcquiredVoxelSize'] = list(series.voxel_size)
    found = {}
    for port in ports:
        one = PRODUCTS[port]
        about, extra = one.about, {'method': getattr(options, one.step).label}
        if port in series.given_ports:
            about, extra = f'{about}, as it was given', {}
        elif one.step == 'inversion':
            extra = {'method': _name_of(options.inversion), 'parameters': _chain(series, options)}
        found[port] = sidecar(
            about, sources=sources, units=one.units, skull_stripped=True, **field, **extra, **others
        )
    return found


def _mask_name(series: 'Series', options: 'Options') -> str:
    """Name of the method of the mask, as records have it."""
    name = mask_of(series, options)[0]
    return options.mask.label if is_plugin(name) else name


def _name_of(method: 'Method') -> str:
    """Name of a method without its parameters, as records have it."""
    return method.label if method.is_plugin else method.name


def figure_path(options: 'Options', prefix: str, kind: str) -> Path:
    """Path of the figure ``kind`` of a series or, with the subject's name as ``prefix``, of its anatomy."""
    subject = prefix.partition('_')[0]
    drawn = [figure for app in applications() for figure in app.figures if figure.draw]
    charts = {figure.name for figure in drawn if not figure.picture}
    extension = 'svg' if kind in SVG or kind in charts or kind.endswith('2anat') else 'png'
    return options.output_dir / subject / 'figures' / f'{prefix}_desc-{kind}_figure.{extension}'


def init_outputs_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    atlas: 'Atlas',
    maps: list[str],
    figures: tuple[str, ...],
    n_series: int,
    name: str = 'outputs_wf',
):
    """Save the maps, mask, labels, transforms, findings, figures, and what applications gave of a series.

    ``n_series`` of the participant share the viewer. Inputs: ``maps``, magnitude if it is a figure, mask,
    reference (JSON), gre_to_anat, labels, notes, fit_notes and brain_notes (JSON), the ports of
    :func:`bids_qsm.workflows.labels.label_files` and the outputs of
    :func:`bids_qsm.workflows.applications.init_applications_wf`, figure_<kind> for each of ``figures``.
    """
    workflow = pe.Workflow(name=name)
    out, entities = options.output_dir, series.entities
    found = label_files(series, options) if series.has_regions else []
    runs = list(runs_of(series))
    ports = [port for run in runs for port in run.outputs.values()]
    drawn = [f'figure_{kind}' for kind in figures]
    reference = ['reference'] if 'chi' in maps else []
    fitted = [] if series.given else ['fit_notes']
    placed = ['gre_to_anat', 'labels', 'brain_notes'] if series.has_regions else []
    placed += ['plugin_notes'] if series.has_regions and 'figure_departure' in drawn else []
    viewed = [*maps, *(['magnitude'] if 'magnitude' in figures else [])]
    inputnode = pe.inputnode(
        *dict.fromkeys([*viewed, 'mask', *reference, 'notes', *fitted, *placed, *found, *ports, *drawn])
    )
    sources = sources_of(series, options)
    files = {
        port: output_path(out, entities, suffix=one.suffix) for port, one in PRODUCTS.items() if one.suffix
    }
    masks = {what: output_path(out, entities, suffix='mask', desc=what) for what in ('brain', 'object')}
    mask = masks.pop('brain' if series.is_head else 'object')
    save_maps = pe.Node(
        SaveDerivatives(
            {**{port: files[port] for port in maps}, 'mask': mask},
            {
                **_map_sidecars(series, options, maps),
                'mask': sidecar(
                    'Where susceptibility is given',
                    sources=sources,
                    mask_type='Brain' if series.is_head else 'ROI',
                    method='as given' if series.given else _mask_name(series, options),
                ),
            },
            {'chi': 'reference'} if reference else {},
            remove=[
                *(str(path) for port, path in files.items() if port not in maps),
                *map(str, masks.values()),
            ],
        ),
        name='save_maps',
    )
    paths, sidecars, others = _label_files(series, options, template, atlas, sources)
    if not series.has_regions:
        # none of an earlier run may stay
        paths, sidecars, others = {}, {}, [*map(str, paths.values()), *others]
    save_labels = pe.Node(SaveDerivatives(paths, sidecars, remove=others), name='save_labels')
    collect = pe.Node(
        CollectFindings(
            series=series.name,
            facts=_facts(series, options),
            layout_notes=_notes(series, atlas),
            warnings=list(series.warnings),
            reference_asked=reference_asked(series, options),
        ),
        name='collect',
    )
    figure_files = {port: figure_path(options, series.name, port.removeprefix('figure_')) for port in drawn}
    findings = out / f'sub-{series.subject}' / 'figures' / f'{series.name}_desc-findings.json'
    save_figures = pe.Node(SaveDerivatives({**figure_files, 'findings': findings}), name='save_figures')
    workflow.link(inputnode, save_maps, *maps, 'mask', *reference)
    if paths:
        workflow.link(inputnode, save_labels, *paths)
    else:
        workflow.add_nodes([save_labels])
    of_brain = {'brain': 'brain_notes'} if series.has_regions else {}
    workflow.link(inputnode, collect, *reference, conditioning='notes', **of_brain)
    workflow.link(inputnode, save_figures, *drawn)
    workflow.link(collect, save_figures, 'findings')
    if fitted:
        workflow.link(inputnode, collect, fit='fit_notes')
    if 'refinement' in found:
        workflow.link(inputnode, collect, 'refinement')
    if 'plugin_notes' in placed:
        workflow.link(inputnode, collect, regions='plugin_notes')
    for run in runs:
        save = application_save(run, (series,), options, atlas)
        workflow.link(inputnode, save, *run.outputs.values())
    dsegs = {port: path for port, path in paths.items() if port.startswith('dseg')}
    add_viewer(
        workflow, series=series, options=options, maps=viewed, dsegs=dsegs, runs=runs, n_series=n_series
    )
    return workflow


def application_save(run: Run, series_list: 'tuple[Series, ...]', options: 'Options', atlas: 'Atlas'):
    """The node that saves what an application gave: images, tables and figures.

    Its ports are those outside of the application's node, see `Run.outputs`.
    """
    first, out, app = series_list[0], options.output_dir, run.app
    whole = app.scope == 'subject'
    entities = {key: value for key, value in first.entities if not whole or key in ('sub', 'ses')}
    names = application_names(app, run.labels or atlas.name)
    sources = tuple(source for one in series_list for source in sources_of(one, options))
    said, on = {}, sources[0]
    if run.bold is not None:
        entities = dict(run.bold.entities)
        names = {
            port: one if port.startswith(tables_of(app)) else {**one, 'space': run.bold.space or None}
            for port, one in names.items()
        }
        roots = {'raw': options.bids_dir, **dict(options.derivatives)}
        on = bids_uri(run.bold.reference or run.bold.bold, roots)
        sources = (*sources, bids_uri(run.bold.bold, roots))
        said = {'Alignment': ALIGNED_HERE} if run.bold.is_raw else {}
    paths, sidecars, notes = {}, {}, {}
    for port, outside in run.outputs.items():
        if port in (FACTS, *(f'{FACTS}_{name}' for name in app.facts_of_images)):  # go into the sidecars
            continue
        if port.startswith('figure_'):
            paths[outside] = figure_path(
                options, '_'.join(map('-'.join, entities.items())), port.removeprefix('figure_')
            )
        else:
            paths[outside] = output_path(out, entities, **names[port])
    for image in app.images:
        is_map = image.suffix.endswith('map')
        sidecars[run.outputs[image.name]] = sidecar(
            image.about,
            sources=sources,
            units=image.units or None,
            skull_stripped=True if is_map else None,
            mask_type='ROI' if image.suffix == 'mask' else None,
            spatial_reference=None if is_map and run.bold is None and not whole else on,
            **said,
        )
        if app.has_facts:
            stated = f'{FACTS}_{image.facts}' if image.facts else FACTS
            notes[run.outputs[image.name]] = run.outputs[stated]
    others = []
    if run.bold is not None:  # what an earlier run wrote of it in another space
        own, now = dict(run.bold.entities), {str(path) for path in paths.values()}
        found = (path for folder in {Path(path).parent for path in now} for path in run_files(folder, app))
        others = [str(path) for path in found if acquired_entities(path) == own and str(path) not in now]
    return pe.Node(SaveDerivatives(paths, sidecars, notes, sorted(others)), name=f'save_{run.name}')


def joint_clean(series_list: 'list[Series]', options: 'Options'):
    """The node that removes what applications of several series left of sessions where they run no more."""
    sessions = {}
    for one in series_list:
        sessions.setdefault(one.session, []).append(one)
    stale = []
    for own in sessions.values():
        running = {use.name for one in own for use in one.applications}
        entities = {key: value for key, value in own[0].entities if key in ('sub', 'ses')}
        stale += [
            str(output_path(options.output_dir, entities, **place))
            for app in applications()
            if app.scope == 'subject' and app.name not in running
            for place in application_names(app, '').values()
        ]
    return pe.Node(SaveDerivatives({}, remove=stale), name='save_no_joint')


def run_files(folder: Path, app: 'Application') -> list[Path]:
    """Images and tables in a folder of an application of runs, whatever run and space they are of."""
    keys = ('label', 'desc', 'suffix', 'extension')
    kinds = [{'extension': '.nii.gz', **name} for name in application_names(app, '').values()]
    kinds = [tuple(kind.get(key) for key in keys) for kind in kinds]
    found = []
    for path in sorted(folder.glob('sub-*_*.*')):
        entities, (stem, _, extension) = entities_of(path), path.name.partition('.')
        kind = (entities.get('label'), entities.get('desc'), stem.rpartition('_')[2], f'.{extension}')
        found += [path] if kind in kinds else []
    return found


def application_names(app: 'Application', labels: str) -> dict[str, dict]:
    """What `output_path` takes for the images and the tables of an application, by output port."""
    seg = {'seg': labels} if app.scope == 'labels' else {}
    seg |= {'datatype': 'func'} if app.of_runs else {}
    names = {image.name: {**image.place, **seg} for image in app.images}
    for image in app.images:
        if image.has_lookup:
            names[f'{image.name}_lookup'] = {**image.place, **seg, 'extension': '.tsv'}
    for document in app.documents:
        names[document.name] = {'suffix': document.suffix, 'desc': document.desc, 'extension': '.json', **seg}
    for table in app.tables:
        for port, extension in ((table.name, '.tsv'), (f'{table.name}_dictionary', '.json')):
            names[port] = {'suffix': table.suffix, 'extension': extension, **seg, **app.entities_of(table)}
    return names


def tables_of(app: 'Application') -> tuple[str, ...]:
    """How ports of the tables of an application begin; no image is called so."""
    return tuple(table.name for table in app.tables)


ALIGNED_HERE = (
    'The run was aligned to the anatomical image here, rigidly. Its distortion was not corrected: veins are '
    'out of place near air.'
)


def _label_files(
    series: 'Series', options: 'Options', template: 'Template', atlas: 'Atlas', sources: tuple[str, ...]
):
    """Paths and sidecars of labels and transforms, by the port that they come from.

    Also the paths of those that this run does not make, and of applications that do not run: none of an
    earlier run may stay beside its tables.
    """
    entities = dict(series.entities)

    def path(
        suffix: str, extension: str = '.nii.gz', ends: dict[str, str] | None = None, **more: str
    ) -> Path:
        return output_path(
            options.output_dir, {**entities, **(ends or {})}, suffix=suffix, extension=extension, **more
        )

    paths = {
        'gre_to_anat': path('xfm', '.txt', {'from': 'GRE', 'to': anat_name(series), 'mode': 'image'}),
    }
    sidecars = {}
    names = {'': (atlas.name, f'Labels of the atlas {atlas.name} on the GRE', sources)}
    roots = {'raw': options.bids_dir, **dict(options.derivatives)}
    for one in series.segmentations:
        whose = 'anatomy' if one.on == 'anat' else 'GRE'
        text = f'Labels of {one.dseg.name}, given with the {whose}, on the GRE'
        names[f'_{one.name}'] = (one.name, text, (*sources, bids_uri(one.dseg, roots)))
    for end, (seg, text, of) in names.items():
        paths[f'dseg{end}'] = path('dseg', seg=seg)
        paths[f'labels{end}'] = path('dseg', '.tsv', seg=seg)
        # what a segmentation of the subject does not have, the report tells them apart by
        named = {} if end else {'Atlas': atlas.name}
        sidecars[f'dseg{end}'] = sidecar(text, sources=of, **named)
    ends = {'from': template.name, 'to': template.name, 'mode': 'image'}
    refined = {port: path('xfm', ends=ends, desc=port) for port in ('refine', 'unrefine')}
    refined['probseg'] = path('probseg', seg=atlas.name)
    others = [] if is_refined(options) else list(refined.values())
    if is_refined(options):
        paths |= refined
        text = f'Share of each voxel (0 to 1) in each label of the atlas {atlas.name}'
        volumes = read_labels(atlas.labels)['name'].astype(str)
        sidecars['probseg'] = {**sidecar(text, sources=sources), 'LabelMap': volumes.tolist()}
        # the sidecar of the labels describes the columns of their table too
        described = dictionary(atlas.name)
        sidecars['dseg'] |= {column: described[column] for column in QUALITY}
    running = {use.name for use in series.applications}
    asked = {method.name for method in options.applications}
    folders = _func_folders(series, options)
    for app in applications():
        if app.name not in running and app.scope not in ('subject', 'run'):
            of_labels = [seg for seg, *_ in names.values()] if app.scope == 'labels' else [atlas.name]
            others += [path(**one) for seg in of_labels for one in application_names(app, seg).values()]
        elif app.of_runs and app.name not in asked:
            others += [file for folder in folders for file in run_files(folder, app)]
    return paths, sidecars, [str(path) for path in others]


def _func_folders(series: 'Series', options: 'Options') -> list[Path]:
    """Folders of the output with files of the BOLD runs that a series may have had."""
    top = options.output_dir / f'sub-{series.subject}'
    if options.session_label:
        return [top / f'ses-{series.session}' / 'func']
    return [top / 'func', *sorted(top.glob('ses-*/func'))]


def _notes(series: 'Series', atlas: 'Atlas') -> list[str]:
    if not series.has_regions:
        return list(series.notes)
    notes = [*series.notes, f'Regions are those of the atlas {atlas.name}: {atlas.citation}.']
    if atlas.approximate:
        notes.append(
            f'The atlas {atlas.name} is approximate: smoothed surfaces of the nuclei of '
            'CIT168, and ellipsoids for thalamus and dentate. For results, choose a real one by --atlas.'
        )
    return notes


def _facts(series: 'Series', options: 'Options') -> dict[str, object]:
    """What the report says of a series first."""
    image = series.t1w_preproc or series.t1w
    return {
        **({'Starts from': ', '.join(one.path.name for one in series.given)} if series.given else {}),
        'Echo times (ms)': ', '.join(f'{1e3 * t:.4g}' for t in series.echo_times) or 'none',
        'Field strength (T)': f'{series.field_strength:.3g}' if series.field_strength else 'not given',
        'Manufacturer': series.manufacturer or 'not given',
        'Repetition time (s)': series.repetition_time or 'not given',
        'Flip angle (deg)': series.flip_angle or 'not given',
        'Matrix': size_text(series.shape),
        'Voxel size (mm)': size_text(series.voxel_size),
        **({'Resampled to (mm)': size_text(series.resampled)} if series.resampled else {}),
        'B0 direction (voxel axes)': ', '.join(f'{b:.3f}' for b in series.b0_dir),
        'Anatomical image': image.name if image else "first echo of the subject's first series",
        **{step.capitalize(): getattr(options, step).label for step in _chain(series, options)},
    }


def anat_name(series: 'Series') -> str:
    """Name of the anatomical image's space: T1w, or that of the GRE that stands in for it."""
    return 'T1w' if series.t1w_preproc or series.t1w else 'anatGRE'


def init_standard_outputs_wf(
    *,
    series: 'Series',
    options: 'Options',
    template: 'Template',
    maps: tuple[str, ...],
    is_refined: bool,
    name: str,
):
    """Save the maps of a series in the space of a template. Inputs: reference (JSON) and ``maps``."""
    workflow = pe.Workflow(name=name)
    reference = ['reference'] if 'chi' in maps else []
    inputnode = pe.inputnode(*reference, *maps)
    paths = {
        port: output_path(
            options.output_dir, series.entities, suffix=PRODUCTS[port].suffix, space=template.name
        )
        for port in maps
    }
    # maps of further spaces go by the alignment of the whole head alone
    how = {
        'Registration': str(options.registration),
        'Refinement': str(options.refinement) if is_refined else 'none',
    }
    sidecars = _map_sidecars(series, options, maps, spatial_reference=template.citation, **how)
    notes = {'chi': 'reference'} if reference else {}
    save = pe.Node(SaveDerivatives(paths, sidecars, notes), name='save')
    workflow.link(inputnode, save, *reference, *maps)
    return workflow
