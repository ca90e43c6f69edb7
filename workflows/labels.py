"""Where the regions of a series lie, and all tables that follow: regions, lesions, focal sources."""

from nipype.interfaces.utility import IdentityInterface, Merge

from bids_qsm.anatomy.refine import REFINEMENT
from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.refinement import RefineDeepGrey
from bids_qsm.interfaces.segmentation import ReadSegmentation
from bids_qsm.recon.registry import facts
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.lesions import init_candidates_wf, init_lesions_wf
from bids_qsm.workflows.memory import Sizes, need
from bids_qsm.workflows.regions import init_regions_wf

REGIONS = ('dseg', 'table', 'dictionary')
REFINED = ('refine', 'unrefine', 'refinement')
LESIONS = ('lesions', 'lesions_dictionary')
CANDIDATES = ('candidates', 'candidates_table', 'candidates_dictionary')


def label_ports(series, options):
    """Outputs of :func:`init_labels_wf`, as ``series`` and ``options`` have them."""
    return [
        *REGIONS,
        *(REFINED if options.refinement.name != 'none' else ()),
        *(f'{port}_{one.name}' for one in series.segmentations for port in (*REGIONS, 'labels')),
        *(LESIONS if series.lesions else ()),
        *(CANDIDATES if options.candidates else ()),
    ]


def label_inputs(series, options):
    """Inputs of :func:`init_labels_wf` that say where the series lies."""
    return [
        *('gre_to_anat', 'template_to_image'),
        *(('anat', 'image_to_template') if options.refinement.name != 'none' else ()),
        *(['flair_to_anat'] if series.lesions_flair else []),
    ]


def init_labels_wf(
    *, series, options, template, atlas, has_r2star: bool, sizes: Sizes, name: str = 'labels_wf'
):
    """Bring atlas, segmentations and lesions to the GRE, and measure the maps there.

    Inputs: chi, r2star, mask (GRE grid), reference (JSON), and those of :func:`label_inputs`.
    Outputs: dseg, table and dictionary of the atlas; where they are made refine, unrefine (transforms),
    refinement (JSON); dseg_<name>, labels_<name>, table_<name>, dictionary_<name> of each segmentation of the
    subject; lesions (table), lesions_dictionary; candidates (labels), candidates_table,
    candidates_dictionary.
    """
    workflow = pe.Workflow(name=name)
    is_refined = options.refinement.name != 'none'
    # without susceptibility there are tables of R2* alone
    of_chi = ['chi', 'reference'] if 'chi' in series.maps else []
    maps = [*of_chi, 'mask', *(['r2star'] if has_r2star else [])]
    inputnode = pe.Node(IdentityInterface([*maps, *label_inputs(series, options)]), name='inputnode')
    outputnode = pe.Node(IdentityInterface(label_ports(series, options)), name='outputnode')
    # of GRE points to points of the template
    invert = [True, False, *([False] if is_refined else [])]
    to_template = pe.Node(Merge(len(invert)), name='to_template')
    white = pe.Node(
        Resample(image=str(template.white_matter), interpolation='label', invert=invert),
        name='white_matter',
        mem_gb=need('resample_gre', sizes),
    )
    shared = {'has_r2star': has_r2star, 'sizes': sizes}
    of_regions = {**shared, 'has_chi': 'chi' in series.maps}
    regions_wf = init_regions_wf(
        atlas=atlas.name,
        how=f'Regions are those of the atlas {atlas.name} ({atlas.citation}), carried to the GRE by the '
        'inverse transforms in one interpolation.',
        invert=invert,
        many=False,
        **of_regions,
    )
    regions_wf.inputs.inputnode.dseg = str(atlas.dseg)
    regions_wf.inputs.inputnode.labels = str(atlas.labels)
    workflow.connect(
        [
            (inputnode, to_template, [('gre_to_anat', 'in1'), ('template_to_image', 'in2')]),
            (inputnode, white, [('mask', 'reference')]),
            (to_template, white, [('out', 'transforms')]),
            (to_template, regions_wf, [('out', 'inputnode.transforms')]),
            (regions_wf, outputnode, [(f'outputnode.{port}', port) for port in REGIONS]),
        ]
    )
    if is_refined:
        _add_refinement(workflow, options, template, atlas, sizes)
    tables = [regions_wf, *(_add_segmentation(workflow, one, of_regions) for one in series.segmentations)]
    for table in tables:
        workflow.connect(
            [
                (inputnode, table, [(port, f'inputnode.{port}') for port in maps]),
                (white, table, [('image', 'inputnode.white_matter')]),
            ]
        )
    focal = [_add_lesions(workflow, series, invert, shared)] if series.lesions else []
    focal += [_add_candidates(workflow, invert, shared)] if options.candidates else []
    for found in focal:
        found.inputs.inputnode.labels = str(atlas.labels)
        workflow.connect(
            [
                (inputnode, found, [(port, f'inputnode.{port}') for port in maps]),
                (regions_wf, found, [('outputnode.dseg', 'inputnode.dseg')]),
                (to_template, found, [('out', 'inputnode.to_template')]),
            ]
        )
    return workflow


def _add_refinement(workflow, options, template, atlas, sizes):
    """Add the alignment of the deep grey matter by susceptibility, from where the anatomical image has it."""
    target = 'one given' if options.chi_template else 'one made from the atlas and values of the literature'
    about = facts(REFINEMENT[options.refinement.name])
    workflow.__desc__ = about.prose.format(template=target)
    refine_labels = pe.Node(
        RefineDeepGrey(
            method=options.refinement.name,
            params=options.refinement.as_dict,
            template=str(template.t1w),
            template_chi=str(template.chi),
            dseg=str(atlas.dseg),
            labels=str(atlas.labels),
        ),
        name='refine_labels',
        mem_gb=need(about.memory, sizes),
    )
    workflow.connect(
        [
            (
                workflow.get_node('inputnode'),
                refine_labels,
                [(port, port) for port in ('chi', 'mask', 'anat', 'image_to_template', 'gre_to_anat')],
            ),
            (refine_labels, workflow.get_node('to_template'), [('unrefine', 'in3')]),
            (
                refine_labels,
                workflow.get_node('outputnode'),
                [('refine', 'refine'), ('unrefine', 'unrefine'), ('note', 'refinement')],
            ),
        ]
    )


def _add_segmentation(workflow, one, shared):
    """Add the table of a segmentation of the subject's own anatomy."""
    on_anat = one.on == 'anat'
    regions_wf = init_regions_wf(
        atlas=one.name,
        how="Segmentations of the subject's own anatomy were carried to the GRE by the rigid alignment.",
        invert=[True] if on_anat else [],
        many=True,
        name=f'regions_{one.name}_wf',
        **shared,
    )
    read = pe.Node(
        ReadSegmentation(dseg=str(one.dseg), names=one.names),
        name=f'read_{one.name}',
        mem_gb=need('read_segmentation', shared['sizes']),
    )
    if one.table is not None:
        read.inputs.table = str(one.table)
    workflow.connect(
        [
            (read, regions_wf, [('dseg', 'inputnode.dseg'), ('labels', 'inputnode.labels')]),
            (read, workflow.get_node('outputnode'), [('labels', f'labels_{one.name}')]),
        ]
    )
    if on_anat:
        workflow.connect(workflow.get_node('inputnode'), 'gre_to_anat', regions_wf, 'inputnode.transforms')
    else:
        regions_wf.inputs.inputnode.transforms = []
    workflow.connect(
        [
            (
                regions_wf,
                workflow.get_node('outputnode'),
                [(f'outputnode.{port}', f'{port}_{one.name}') for port in REGIONS],
            )
        ]
    )
    return regions_wf


def _add_lesions(workflow, series, invert, shared):
    """Add the table of the lesions drawn by others."""
    drawn = {'anat': series.lesions_anat, 'flair': series.lesions_flair, 'gre': series.lesions_gre}
    masks = tuple((str(path), kind) for kind, paths in drawn.items() for path in paths)
    lesions_wf = init_lesions_wf(masks=masks, invert=invert, **shared)
    placed_by = ['gre_to_anat'] if series.lesions_anat or series.lesions_flair else []
    placed_by += ['flair_to_anat'] if series.lesions_flair else []
    workflow.connect(
        [
            (
                workflow.get_node('inputnode'),
                lesions_wf,
                [(port, f'inputnode.{port}') for port in placed_by],
            ),
            (
                lesions_wf,
                workflow.get_node('outputnode'),
                [('outputnode.table', 'lesions'), ('outputnode.dictionary', 'lesions_dictionary')],
            ),
        ]
    )
    return lesions_wf


def _add_candidates(workflow, invert, shared):
    """Add the search for microbleeds and calcifications."""
    candidates_wf = init_candidates_wf(invert=invert, **shared)
    workflow.connect(
        [
            (
                candidates_wf,
                workflow.get_node('outputnode'),
                [
                    ('outputnode.candidates', 'candidates'),
                    ('outputnode.table', 'candidates_table'),
                    ('outputnode.dictionary', 'candidates_dictionary'),
                ],
            )
        ]
    )
    return candidates_wf
