"""Labels on the series, and the tables of what the maps say there."""

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline import engine as pe

from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.lesions import LabelLesions
from bids_qsm.interfaces.regions import RegionTable


def init_regions_wf(
    *,
    atlas: str,
    citation: str,
    n_anat_lesions: int,
    n_gre_lesions: int,
    has_r2star: bool,
    volume_gb: float,
    name: str = 'regions_wf',
):
    """Carry atlas and lesion labels to the GRE grid and tabulate the maps in them.

    Inputs: chi, r2star, mask (GRE grid), reference (JSON), dseg, labels (atlas, template space), gre_to_anat,
    template_to_image, and lesion masks drawn on the anatomical image (anat_lesion_<i>) or on the GRE
    (gre_lesion_<i>).
    Outputs: dseg (GRE grid), table (TSV), dictionary (JSON).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = (
        f'Regions are those of the atlas {atlas} ({citation}), carried to the GRE by the inverse transforms '
        'in one interpolation.'
    )
    anat_lesions = [f'anat_lesion_{i}' for i in range(n_anat_lesions)]
    gre_lesions = [f'gre_lesion_{i}' for i in range(n_gre_lesions)]
    inputnode = pe.Node(
        IdentityInterface(
            [
                'chi',
                'r2star',
                'mask',
                'reference',
                'dseg',
                'labels',
                'gre_to_anat',
                'template_to_image',
                *anat_lesions,
                *gre_lesions,
            ]
        ),
        name='inputnode',
    )
    outputnode = pe.Node(IdentityInterface(['dseg', 'table', 'dictionary']), name='outputnode')
    chain = pe.Node(Merge(2), name='chain')
    labels = pe.Node(
        Resample(interpolation='label', invert=[True, False]), name='labels', mem_gb=1 + 6 * volume_gb
    )
    table = pe.Node(RegionTable(atlas=atlas), name='table', mem_gb=0.5 + 6 * volume_gb)
    workflow.connect(
        [
            (inputnode, chain, [('gre_to_anat', 'in1'), ('template_to_image', 'in2')]),
            (inputnode, labels, [('dseg', 'image'), ('chi', 'reference')]),
            (chain, labels, [('out', 'transforms')]),
            (
                inputnode,
                table,
                [('chi', 'chi'), ('mask', 'mask'), ('labels', 'labels'), ('reference', 'reference')],
            ),
            (inputnode, table, [('dseg', 'atlas_dseg')]),
            (labels, table, [('image', 'dseg')]),
            (labels, outputnode, [('image', 'dseg')]),
            (table, outputnode, [('table', 'table'), ('dictionary', 'dictionary')]),
        ]
    )
    if has_r2star:
        workflow.connect(inputnode, 'r2star', table, 'r2star')
    if anat_lesions or gre_lesions:
        merge = pe.Node(Merge(len(anat_lesions) + len(gre_lesions)), name='lesions')
        workflow.connect(merge, 'out', table, 'lesions')
        for i, port in enumerate([*anat_lesions, *gre_lesions], start=1):
            drawn_on_anat = port in anat_lesions
            number = pe.Node(LabelLesions(), name=f'number_{port}', mem_gb=0.5)
            place = pe.Node(
                Resample(interpolation='label', invert=[True] if drawn_on_anat else []),
                name=f'place_{port}',
                mem_gb=1,
            )
            workflow.connect(
                [
                    (inputnode, number, [(port, 'mask')]),
                    (inputnode, place, [('chi', 'reference')]),
                    (number, place, [('labels', 'image')]),
                    (place, merge, [('image', f'in{i}')]),
                ]
            )
            if drawn_on_anat:
                workflow.connect(inputnode, 'gre_to_anat', place, 'transforms')
            else:
                place.inputs.transforms = []
    return workflow
