"""Lesions drawn by others, and focal sources found here: one row each."""

from nipype.interfaces.utility import IdentityInterface, Merge

from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.lesions import FindCandidates, LabelLesions, LesionTable
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need

MAPS = ('chi', 'mask', 'reference', 'dseg', 'labels')


def distinct_names(paths):
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


def init_lesions_wf(
    *,
    masks: tuple[tuple[str, str], ...],
    invert: list[bool],
    has_r2star: bool,
    sizes: Sizes,
    name: str = 'lesions_wf',
):
    """Bring lesion masks to the GRE grid and measure each lesion.

    ``masks`` are pairs of a path and of what it was drawn on: 'anat', 'flair' or 'gre'; ``invert`` says which
    of ``to_template`` to invert.

    Inputs: chi, r2star, mask, dseg (GRE grid), reference (JSON), labels (table of dseg), gre_to_anat,
    flair_to_anat, to_template (transforms of GRE points to template points).
    Outputs: table (TSV), dictionary (JSON).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = (
        'Lesions were taken from the masks given, carried to the GRE in one interpolation, and measured one '
        'by one: whole, core, rim (outer shell of one voxel) and surround.'
    )
    kinds = {kind for _, kind in masks}
    maps = [*MAPS, *(['r2star'] if has_r2star else [])]
    ports = ['gre_to_anat'] if kinds - {'gre'} else []
    ports += ['flair_to_anat'] if 'flair' in kinds else []
    inputnode = pe.Node(IdentityInterface([*maps, 'to_template', *ports]), name='inputnode')
    outputnode = pe.Node(IdentityInterface(['table', 'dictionary']), name='outputnode')
    drawn = pe.Node(Merge(len(masks)), name='drawn')
    placed = pe.Node(Merge(len(masks)), name='placed')
    empty = pe.Node(Merge(len(masks)), name='empty')
    table = pe.Node(
        LesionTable(
            sources=distinct_names([path for path, _ in masks]),
            drawn_on=[kind for _, kind in masks],
            invert=invert,
        ),
        name='table',
        mem_gb=need('lesion_table', sizes),
    )
    if 'flair' in kinds:
        flair = pe.Node(Merge(2), name='flair')
        workflow.connect([(inputnode, flair, [('gre_to_anat', 'in1'), ('flair_to_anat', 'in2')])])
    for i, (path, kind) in enumerate(masks, start=1):
        number = pe.Node(LabelLesions(mask=path), name=f'number_{i}', mem_gb=need('number_lesions', sizes))
        place = pe.Node(
            Resample(interpolation='label', invert={'gre': [], 'anat': [True], 'flair': [True, False]}[kind]),
            name=f'place_{i}',
            mem_gb=need('carry_mask', sizes),
        )
        workflow.connect(
            [
                (inputnode, place, [('chi', 'reference')]),
                (number, place, [('labels', 'image')]),
                (number, drawn, [('labels', f'in{i}')]),
                (number, empty, [('empty', f'in{i}')]),
                (place, placed, [('image', f'in{i}')]),
            ]
        )
        if kind == 'anat':
            workflow.connect(inputnode, 'gre_to_anat', place, 'transforms')
        elif kind == 'flair':
            workflow.connect(flair, 'out', place, 'transforms')
        else:
            place.inputs.transforms = []
    workflow.connect(
        [
            (inputnode, table, [(port, port) for port in (*maps, 'to_template', *ports)]),
            (drawn, table, [('out', 'drawn')]),
            (placed, table, [('out', 'placed')]),
            (empty, table, [('out', 'empty')]),
            (table, outputnode, [('table', 'table'), ('dictionary', 'dictionary')]),
        ]
    )
    return workflow


def init_candidates_wf(*, invert: list[bool], has_r2star: bool, sizes: Sizes, name: str = 'candidates_wf'):
    """Find microbleeds and calcifications.

    Inputs: chi, r2star, mask, dseg (GRE grid), reference (JSON), labels, to_template.
    Outputs: candidates (labels, GRE grid), table (TSV), dictionary (JSON).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = (
        'Candidates for microbleeds (paramagnetic) and calcifications (diamagnetic) are focal extrema of '
        'susceptibility away from vessels, the deep grey nuclei and the edge of the mask.'
    )
    maps = [*MAPS, 'to_template', *(['r2star'] if has_r2star else [])]
    inputnode = pe.Node(IdentityInterface(maps), name='inputnode')
    outputnode = pe.Node(IdentityInterface(['candidates', 'table', 'dictionary']), name='outputnode')
    find = pe.Node(FindCandidates(invert=invert), name='find', mem_gb=need('find', sizes))
    workflow.connect(
        [
            (inputnode, find, [(port, port) for port in maps]),
            (
                find,
                outputnode,
                [('image', 'candidates'), ('table', 'table'), ('dictionary', 'dictionary')],
            ),
        ]
    )
    return workflow
