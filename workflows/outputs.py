"""Where results go in the output dataset, and what their sidecars say."""

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.derivatives.files import bids_uri, output_path, sidecar
from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.findings import CollectFindings
from bids_qsm.interfaces.report import PlotFlicker, PlotOutlines
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.labels import label_ports
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.susceptibility import is_one_step

# port -> suffix, units and description of its file
MAPS = {
    'chi': ('Chimap', 'ppm', 'Magnetic susceptibility'),
    'r2star': ('R2starmap', '1/s', 'Effective transverse relaxation rate'),
    't2star': ('T2starmap', 's', 'Effective transverse relaxation time'),
    's0': ('S0map', 'arbitrary', 'Signal at echo time zero'),
    'swi': ('swi', 'arbitrary', 'Susceptibility-weighted magnitude'),
    'minip': ('minIP', 'arbitrary', 'Minimum-intensity projection of the susceptibility-weighted magnitude'),
}
# where a figure lies in the report is decided by its name; see data/report.yml
# how the region of a reference is named where it was found
REFERENCE_NAMES = {'brain': 'whole brain'}
FIGURE_SUFFIX = {'gre2t1w': 'svg', 'regions': 'svg'}


def _sources(series, options):
    roots = {'raw': options.bids_dir, **dict(options.derivatives)}
    return tuple(bids_uri(path, roots) for path in series.files)


def _chain(series, options):
    """The methods that led to susceptibility, by step; where a series starts from maps, those left to do."""
    steps, ports = ('mask', 'unwrap', 'field', 'background', 'inversion', 'reference'), series.given_ports
    skipped = {'background'} if is_one_step(options.inversion.name) or 'local_field' in ports else set()
    if ports:
        skipped |= {'mask', 'unwrap', 'field'}
        skipped |= set() if {'local_field', 'field'} & set(ports) else set(steps)
    return {step: str(getattr(options, step)) for step in steps if step not in skipped}


def _map_sidecars(series, options, ports, **others):
    """Sidecars of maps on the GRE or a template grid."""
    sources = _sources(series, options)
    found = {}
    for port in ports:
        _, units, description = MAPS[port]
        extra = {}
        if port in series.given_ports:
            description += ', as it was given'
        elif port == 'chi':
            extra = {'method': options.inversion.name, 'parameters': _chain(series, options)}
        elif port in ('r2star', 't2star', 's0'):
            extra = {'method': str(options.r2star)}
        elif port in ('swi', 'minip'):
            extra = {'method': str(options.swi)}
        found[port] = sidecar(
            description, sources=sources, units=units, skull_stripped=True, **extra, **others
        )
    return found


def _reference_asked(series, options):
    """Region that susceptibility should be relative to: of a map that was given, whatever it says."""
    for one in series.given:
        if one.port == 'chi':
            return one.reference.lower() or 'as given'
    return REFERENCE_NAMES.get(options.reference.name, options.reference.name)


def figure_path(options, prefix, kind, extension):
    """Path of the figure ``kind`` of a series or, with the subject's name as ``prefix``, of its anatomy."""
    subject = prefix.partition('_')[0]
    return options.output_dir / subject / 'figures' / f'{prefix}_desc-{kind}_figure.{extension}'


def init_outputs_wf(*, series, options, template, atlas, figures: tuple[str, ...], name: str = 'outputs_wf'):
    """Save the maps, mask, labels, tables, transforms, findings and figures of a series.

    Inputs: chi, swi, minip, r2star, t2star, s0, mask, reference (JSON), gre_to_anat, labels, notes (JSON),
    the outputs of :func:`bids_qsm.workflows.labels.init_labels_wf`, figure_<kind> for each of ``figures``.
    """
    workflow = pe.Workflow(name=name)
    out, entities = options.output_dir, series.entities
    ports = [f'figure_{kind}' for kind in figures]
    found = label_ports(series, options)
    made = tuple(MAPS)
    if series.given:
        made = (*series.maps, *(('t2star', 's0') if series.echo_times else ()))
    reference = ['reference'] if 'chi' in made else []
    inputnode = pe.Node(
        IdentityInterface([*made, *reference, 'mask', 'gre_to_anat', 'labels', 'notes', *found, *ports]),
        name='inputnode',
    )
    map_paths = {port: output_path(out, entities, suffix=MAPS[port][0]) for port in MAPS}
    sources, mask = _sources(series, options), 'as given' if series.given else options.mask.name
    save_maps = pe.Node(
        SaveDerivatives(
            {
                **{port: map_paths[port] for port in made},
                'mask': output_path(out, entities, suffix='mask', desc='brain'),
            },
            {
                **_map_sidecars(series, options, made),
                'mask': sidecar(
                    'Where susceptibility is given',
                    sources=sources,
                    mask_type='Brain',
                    method=mask,
                ),
            },
            {'chi': 'reference'},
            remove=[str(map_paths[port]) for port in MAPS if port not in made],
        ),
        name='save_maps',
    )
    paths, sidecars, others = _label_files(series, options, template, atlas, sources)
    save_labels = pe.Node(SaveDerivatives(paths, sidecars, remove=others), name='save_labels')
    collect = pe.Node(
        CollectFindings(
            series=series.name,
            facts=_facts(series, options),
            layout_notes=_notes(series, atlas),
            reference_asked=_reference_asked(series, options),
        ),
        name='collect',
    )
    save_figures = pe.Node(
        SaveDerivatives(
            {
                **{
                    f'figure_{kind}': figure_path(options, series.name, kind, FIGURE_SUFFIX.get(kind, 'png'))
                    for kind in figures
                },
                'findings': out / f'sub-{series.subject}' / 'figures' / f'{series.name}_desc-findings.json',
            }
        ),
        name='save_figures',
    )
    workflow.connect(
        [
            (inputnode, save_maps, [(port, port) for port in (*made, *reference, 'mask')]),
            (inputnode, save_labels, [(port, port) for port in paths]),
            (inputnode, collect, [('notes', 'conditioning'), *((port, port) for port in reference)]),
            (inputnode, save_figures, [(port, port) for port in ports]),
            (collect, save_figures, [('findings', 'findings')]),
        ]
    )
    if 'refinement' in found:
        workflow.connect(inputnode, 'refinement', collect, 'refinement')
    return workflow


def _label_files(series, options, template, atlas, sources):
    """Paths and sidecars of labels, tables and transforms, by the port that they come from.

    Also the paths of those that this run does not make: none of an earlier run may stay beside its tables.
    """
    entities = dict(series.entities)

    def path(suffix, extension='.nii.gz', ends=(), **more):
        return output_path(
            options.output_dir, {**entities, **dict(ends)}, suffix=suffix, extension=extension, **more
        )

    paths = {
        'gre_to_anat': path('xfm', '.txt', {'from': 'GRE', 'to': anat_name(series), 'mode': 'image'}),
    }
    sidecars = {}
    names = {'': (atlas.name, f'Labels of the atlas {atlas.name} on the GRE', sources)}
    roots = {'raw': options.bids_dir, **dict(options.derivatives)}
    for one in series.segmentations:
        text = f'Labels of {one.dseg.name}, given with the anatomy, on the GRE'
        names[f'_{one.name}'] = (one.name, text, (*sources, bids_uri(one.dseg, roots)))
    for end, (seg, text, of) in names.items():
        paths[f'dseg{end}'] = path('dseg', seg=seg)
        paths[f'labels{end}'] = path('dseg', '.tsv', seg=seg)
        paths[f'table{end}'] = path('stats', '.tsv', seg=seg)
        paths[f'dictionary{end}'] = path('stats', '.json', seg=seg)
        # what a segmentation of the subject does not have, the report tells them apart by
        named = {} if end else {'Atlas': atlas.name}
        sidecars[f'dseg{end}'] = sidecar(text, sources=of, **named)
    ends = {'from': template.name, 'to': template.name, 'mode': 'image'}
    optional = {
        **{port: path('xfm', ends=ends, desc=port) for port in ('refine', 'unrefine')},
        'lesions': path('stats', '.tsv', label='lesion'),
        'lesions_dictionary': path('stats', '.json', label='lesion'),
        'candidates': path('dseg', desc='candidates'),
        'candidates_table': path('stats', '.tsv', label='candidate'),
        'candidates_dictionary': path('stats', '.json', label='candidate'),
    }
    made = set(label_ports(series, options)) & set(optional)
    if 'candidates' in made:
        sidecars['candidates'] = sidecar(
            'Candidates for microbleeds and calcifications, numbered as in their table', sources=sources
        )
    paths |= {port: optional[port] for port in made}
    return paths, sidecars, [str(path) for port, path in optional.items() if port not in made]


def _notes(series, atlas):
    notes = [*series.notes, f'Regions are those of the atlas {atlas.name}: {atlas.citation}.']
    if atlas.approximate:
        notes.append(
            f'The atlas {atlas.name} is approximate: each nucleus is an ellipsoid of the right place, '
            'size and orientation. For results, choose a real one by --atlas.'
        )
    return notes


def _facts(series, options):
    """What the report says of a series first."""
    image = series.t1w_preproc or series.t1w
    return {
        **({'Starts from': ', '.join(one.path.name for one in series.given)} if series.given else {}),
        'Echo times (ms)': ', '.join(f'{1e3 * t:.4g}' for t in series.echo_times) or 'none',
        'Field strength (T)': f'{series.field_strength:.3g}' if series.field_strength else 'not given',
        'Manufacturer': series.manufacturer or 'not given',
        'Repetition time (s)': series.repetition_time or 'not given',
        'Flip angle (deg)': series.flip_angle or 'not given',
        'Matrix': ' x '.join(str(n) for n in series.shape),
        'Voxel size (mm)': ' x '.join(f'{v:.3g}' for v in series.voxel_size),
        'B0 direction (voxel axes)': ', '.join(f'{b:.3f}' for b in series.b0_dir),
        'Anatomical image': image.name if image else "first echo of the subject's first series",
        **{step.capitalize(): str(getattr(options, step)) for step in _chain(series, options)},
    }


def init_anat_outputs_wf(*, series, options, name: str = 'save_anat_wf'):
    """Save the subject's anatomical image, where it is a T1w, and its brain mask. Inputs: image, mask."""
    workflow = pe.Workflow(name=name)
    entities = _anat_entities(series)
    roots = {'raw': options.bids_dir, **dict(options.derivatives)}
    image = series.t1w_preproc or series.t1w
    sources = (bids_uri(image, roots),) if image else _sources(series, options)
    paths = {
        'mask': output_path(
            options.output_dir, entities, space=anat_name(series), suffix='mask', desc='brain'
        )
    }
    sidecars = {
        'mask': sidecar(
            'Brain mask of the anatomical image',
            sources=sources,
            mask_type='Brain',
            spatial_reference=sources[0],
        )
    }
    if image:
        paths['image'] = output_path(options.output_dir, entities, suffix='T1w', desc='preproc')
        sidecars['image'] = sidecar('Bias-corrected T1w', sources=sources, skull_stripped=False)
    inputnode = pe.Node(IdentityInterface(list(paths)), name='inputnode')
    save = pe.Node(SaveDerivatives(paths, sidecars), name='save')
    workflow.connect([(inputnode, save, [(port, port) for port in paths])])
    return workflow


def anat_name(series):
    """Name of the anatomical image's space: T1w, or that of the GRE that stands in for it."""
    return 'T1w' if series.t1w_preproc or series.t1w else 'anatGRE'


def _anat_entities(series):
    """Entities of the subject's anatomy: its sessions and runs share it."""
    return {'sub': series.subject}


def init_normalize_outputs_wf(*, series, options, template, atlas, sizes: Sizes, name: str):
    """Save the transforms between the anatomy and a template, and figures of how they fit.

    ``atlas`` is drawn on the anatomical image, None where it is in another space.

    Inputs: image_to_template, template_to_image, in_template, and with an atlas image (the anatomical one).
    """
    workflow = pe.Workflow(name=name)
    anat, subject = anat_name(series), f'sub-{series.subject}'
    ends = {'image_to_template': (anat, template.name), 'template_to_image': (template.name, anat)}
    ports = [*ends, 'in_template', *(['image'] if atlas is not None else [])]
    inputnode = pe.Node(IdentityInterface(ports), name='inputnode')
    entities = {**_anat_entities(series), 'mode': 'image'}
    given = any(space == template.name for space, *_ in series.template_xfm)
    paths = {
        port: output_path(
            options.output_dir,
            {**entities, 'from': source, 'to': target},
            suffix='xfm',
            extension='.h5' if given else '.nii.gz',
        )
        for port, (source, target) in ends.items()
    }
    paths['flicker'] = figure_path(options, f'{subject}_space-{template.name}', 't1w2template', 'svg')
    if atlas is not None:
        paths['outlines'] = figure_path(options, subject, 'atlast1w', 'png')
    save = pe.Node(SaveDerivatives(paths), name='save')
    flicker = pe.Node(
        PlotFlicker(title=f'Anatomical image and {template.name}', labels=['template', 'anatomy']),
        name='flicker',
        mem_gb=need('flicker', sizes),
    )
    flicker.inputs.fixed, flicker.inputs.mask = str(template.t1w), str(template.mask)
    workflow.connect(
        [
            (inputnode, save, [(port, port) for port in ends]),
            (inputnode, flicker, [('in_template', 'moving')]),
            (flicker, save, [('figure', 'flicker')]),
        ]
    )
    if atlas is not None:
        place = pe.Node(
            Resample(image=str(atlas.dseg), interpolation='label', invert=[False]),
            name='place',
            mem_gb=need('place_atlas', sizes),
        )
        outlines = pe.Node(
            PlotOutlines(kind='t1w', labels=str(atlas.labels)),
            name='outlines',
            mem_gb=need('plot_anat', sizes),
        )
        workflow.connect(
            [
                (inputnode, place, [('image', 'reference'), ('template_to_image', 'transforms')]),
                (inputnode, outlines, [('image', 'image')]),
                (place, outlines, [('image', 'dseg')]),
                (outlines, save, [('figure', 'outlines')]),
            ]
        )
    return workflow


def init_standard_outputs_wf(
    *, series, options, template, maps: tuple[str, ...], is_refined: bool, name: str
):
    """Save the maps of a series in the space of a template. Inputs: reference (JSON) and ``maps``."""
    workflow = pe.Workflow(name=name)
    ports = ['reference', *maps] if 'chi' in maps else maps
    inputnode = pe.Node(IdentityInterface(list(ports)), name='inputnode')
    paths = {
        port: output_path(options.output_dir, series.entities, suffix=MAPS[port][0], space=template.name)
        for port in maps
    }
    # maps of further spaces go by the alignment of the whole head alone
    how = {
        'Registration': str(options.registration),
        'Refinement': str(options.refinement) if is_refined else 'none',
    }
    sidecars = _map_sidecars(series, options, maps, spatial_reference=template.citation, **how)
    save = pe.Node(SaveDerivatives(paths, sidecars, {'chi': 'reference'}), name='save')
    workflow.connect([(inputnode, save, [(port, port) for port in ports])])
    return workflow
