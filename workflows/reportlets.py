"""Figures of a series for the report."""

from bids_qsm.interfaces.report import PlotFlicker, PlotMap, PlotOutlines
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def others_of(maps: list[str], *, has_regions: bool = True) -> list[str]:
    """Figures of a series with these ``maps`` that are not a map by itself."""
    return [
        *(['mask'] if 'magnitude' in maps else []),
        *(['atlas', 'gre2t1w'] if has_regions else []),
    ]


def init_reportlets_wf(
    *, maps: list[str], has_regions: bool = True, sizes: Sizes, name: str = 'reportlets_wf'
):
    """Draw the maps of a series and, where it ``has_regions``, their outlines and its alignment.

    Inputs: ``maps``, some of PRODUCTS, mask and with regions dseg, labels, anat, in_anat, anat_mask.
    Outputs: ``maps`` and those of :func:`others_of`.
    """
    workflow = pe.Workflow(name=name)
    placed = ['dseg', 'labels', 'anat', 'in_anat', 'anat_mask'] if has_regions else []
    inputnode = pe.inputnode(*maps, 'mask', *placed)
    outputnode = pe.outputnode(*maps, *others_of(maps, has_regions=has_regions))
    for kind in maps:
        plot = pe.Node(
            PlotMap(kind=kind),
            name=f'plot_{kind}',
            mem_gb=need('plot_phase' if kind == 'phase' else 'plot', sizes),
        )
        workflow.link(inputnode, plot, 'mask', image=kind)
        workflow.link(plot, outputnode, **{kind: 'figure'})
    if 'magnitude' in maps:
        plot_mask = pe.Node(PlotOutlines(kind='magnitude'), name='plot_mask', mem_gb=need('plot', sizes))
        workflow.link(inputnode, plot_mask, 'mask', image='magnitude')
        workflow.link(plot_mask, outputnode, mask='figure')
    if has_regions:
        _add_placed(workflow, maps, sizes)
    return workflow


def _add_placed(workflow: pe.Workflow, maps: list[str], sizes: Sizes):
    """Draw the outlines of the regions, and the alignment."""
    inputnode, outputnode = workflow.get_node('inputnode'), workflow.get_node('outputnode')
    over = 'chi' if 'chi' in maps else 'r2star'
    plot_atlas = pe.Node(PlotOutlines(kind=over), name='plot_atlas', mem_gb=need('plot', sizes))
    flicker = pe.Node(
        PlotFlicker(
            title=f'{"GRE magnitude" if "magnitude" in maps else "Map"} and anatomical image',
            labels=['anatomy', 'GRE'],
        ),
        name='flicker',
        mem_gb=need('flicker', sizes),
    )
    workflow.link(inputnode, plot_atlas, 'mask', 'dseg', 'labels', image=over)
    workflow.link(inputnode, flicker, fixed='anat', moving='in_anat', mask='anat_mask')
    workflow.link(plot_atlas, outputnode, atlas='figure')
    workflow.link(flicker, outputnode, gre2t1w='figure')
