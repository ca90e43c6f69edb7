"""Figures of a series for the report."""

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.interfaces.report import PlotFlicker, PlotMap, PlotOutlines, PlotRegions
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need

MASKED = ('phase', 'field', 'residual', 'localfield', 'chi', 'r2star', 'swi', 'minip')
FIGURES = ('magnitude', *MASKED, 'mask', 'atlas', 'gre2t1w', 'regions')


def figures_of(*, series, one_step: bool):
    """Figures that a series has: one echo leaves no residual and no decay, one step no local field."""
    ports = set(series.given_ports)
    lacking = {'chi', 'r2star'} - set(series.maps)
    if one_step and 'local_field' not in ports:
        lacking.add('localfield')
    if ports:
        lacking |= {'phase', 'residual', 'swi', 'minip'}
        lacking |= set() if series.magnitude else {'magnitude', 'mask'}
        lacking |= set() if 'field' in ports else {'field'}
        lacking |= set() if ports & {'field', 'local_field'} else {'localfield'}
    elif len(series.echo_times) == 1:
        lacking.add('residual')
    return tuple(f for f in FIGURES if f not in lacking)


def init_reportlets_wf(*, figures: tuple[str, ...], sizes: Sizes, name: str = 'reportlets_wf'):
    """Draw the maps, outlines, alignment and regions of a series.

    Inputs: magnitude, phase, field, residual, localfield, chi, r2star, swi, minip (maps), mask, dseg, labels,
    anat, in_anat, anat_mask, table. Outputs: ``figures``, some of FIGURES.
    """
    workflow = pe.Workflow(name=name)
    maps = [m for m in ('magnitude', *MASKED) if m in figures]
    inputnode = pe.Node(
        IdentityInterface([*maps, 'mask', 'dseg', 'labels', 'anat', 'in_anat', 'anat_mask', 'table']),
        name='inputnode',
    )
    outputnode = pe.Node(IdentityInterface(list(figures)), name='outputnode')
    for kind in maps:
        plot = pe.Node(
            PlotMap(kind=kind),
            name=f'plot_{kind}',
            mem_gb=need('plot_phase' if kind == 'phase' else 'plot', sizes),
        )
        workflow.connect(
            [(inputnode, plot, [(kind, 'image'), ('mask', 'mask')]), (plot, outputnode, [('figure', kind)])]
        )
    over = 'chi' if 'chi' in figures else 'r2star'
    plot_atlas = pe.Node(PlotOutlines(kind=over), name='plot_atlas', mem_gb=need('plot', sizes))
    flicker = pe.Node(
        PlotFlicker(
            title=f'{"GRE magnitude" if "magnitude" in figures else "Map"} and anatomical image',
            labels=['anatomy', 'GRE'],
        ),
        name='flicker',
        mem_gb=need('flicker', sizes),
    )
    plot_regions = pe.Node(PlotRegions(), name='plot_regions', mem_gb=need('plot_regions', sizes))
    workflow.connect(
        [
            (
                inputnode,
                plot_atlas,
                [(over, 'image'), ('mask', 'mask'), ('dseg', 'dseg'), ('labels', 'labels')],
            ),
            (inputnode, flicker, [('anat', 'fixed'), ('in_anat', 'moving'), ('anat_mask', 'mask')]),
            (inputnode, plot_regions, [('table', 'table')]),
            (plot_atlas, outputnode, [('figure', 'atlas')]),
            (flicker, outputnode, [('figure', 'gre2t1w')]),
            (plot_regions, outputnode, [('figure', 'regions')]),
        ]
    )
    if 'mask' in figures:
        plot_mask = pe.Node(PlotOutlines(kind='magnitude'), name='plot_mask', mem_gb=need('plot', sizes))
        workflow.connect(
            [
                (inputnode, plot_mask, [('magnitude', 'image'), ('mask', 'mask')]),
                (plot_mask, outputnode, [('figure', 'mask')]),
            ]
        )
    return workflow
