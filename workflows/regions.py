"""Labels on the series, and the tables of what the maps say there."""

from nipype.interfaces.utility import IdentityInterface

from bids_qsm.interfaces.anatomy import Resample
from bids_qsm.interfaces.regions import RegionTable
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.memory import Sizes, need


def init_regions_wf(
    *,
    atlas: str,
    how: str,
    invert: list[bool],
    has_r2star: bool,
    has_chi: bool = True,
    sizes: Sizes,
    many: bool,
    name: str = 'regions_wf',
):
    """Carry labels to the GRE grid and tabulate the maps in them.

    ``how`` says in the methods text where the labels come from; ``invert`` which of the transforms to invert.
    Regions that the field of view cuts are counted against the labels before they are carried over. With
    ``many`` labels, as of a whole brain, the table takes more memory.

    Inputs: chi, r2star, mask, white_matter (GRE grid), reference (JSON), dseg, labels (its table),
    transforms. Outputs: dseg (GRE grid), labels, table (TSV), dictionary (JSON).
    """
    workflow = pe.Workflow(name=name)
    workflow.__desc__ = how
    maps = ['mask', 'white_matter', *(['chi', 'reference'] if has_chi else [])]
    maps += ['r2star'] if has_r2star else []
    inputnode = pe.Node(IdentityInterface([*maps, 'dseg', 'labels', 'transforms']), name='inputnode')
    outputnode = pe.Node(IdentityInterface(['dseg', 'table', 'dictionary']), name='outputnode')
    place = pe.Node(
        Resample(interpolation='label', invert=invert), name='labels', mem_gb=need('resample_gre', sizes)
    )
    table = pe.Node(
        RegionTable(atlas=atlas), name='table', mem_gb=need('table_many' if many else 'table', sizes)
    )
    workflow.connect(
        [
            (inputnode, place, [('dseg', 'image'), ('mask', 'reference'), ('transforms', 'transforms')]),
            (inputnode, table, [('dseg', 'atlas_dseg'), *[(port, port) for port in (*maps, 'labels')]]),
            (place, table, [('image', 'dseg')]),
            (place, outputnode, [('image', 'dseg')]),
            (table, outputnode, [('table', 'table'), ('dictionary', 'dictionary')]),
        ]
    )
    return workflow
