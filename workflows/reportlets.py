"""Figures of a series for the report."""

from bids_qsm.interfaces.report import PlotFlicker, PlotMap, PlotOutlines
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def others_of(maps: list[str]) -> list[str]:
    """Figures of a series with these ``maps`` that are not a map by itself."""
    return [*(['mask'] if 'magnitude' in maps else []), 'atlas', 'gre2t1w']


def init_reportlets_wf(*, maps: list[str], sizes: Sizes, name: str = 'reportlets_wf'):
    """Draw the maps, outlines and alignment of a series.

    Inputs: ``maps``, some of PRODUCTS, mask, dseg, labels, anat, in_anat, anat_mask. Outputs: ``maps`` and
    those of :func:`others_of`.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.inputnode(*maps, 'mask', 'dseg', 'labels', 'anat', 'in_anat', 'anat_mask')
    outputnode = pe.outputnode(*maps, *others_of(maps))
    for kind in maps:
        plot = pe.Node(
            PlotMap(kind=kind),
            name=f'plot_{kind}',
            mem_gb=need('plot_phase' if kind == 'phase' else 'plot', sizes),
        )
        workflow.link(inputnode, plot, 'mask', image=kind)
        workflow.link(plot, outputnode, **{kind: 'figure'})
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
    if 'magnitude' in maps:
        plot_mask = pe.Node(PlotOutlines(kind='magnitude'), name='plot_mask', mem_gb=need('plot', sizes))
        workflow.link(inputnode, plot_mask, 'mask', image='magnitude')
        workflow.link(plot_mask, outputnode, mask='figure')
    return workflow
