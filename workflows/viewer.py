"""Volumes of a series for the viewer of the report."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bids_qsm.applications import applications
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.entities import entities_of
from bids_qsm.interfaces.derivatives import SaveDerivatives
from bids_qsm.interfaces.viewer import PackVolumes
from bids_qsm.plotting.layers import joint_rooms, rooms
from bids_qsm.recon.registry import Need
from bids_qsm.workflows import engine as pe
from bids_qsm.workflows.applications import Run, runs_of
from bids_qsm.workflows.memory import Sizes, need

if TYPE_CHECKING:
    from bids_qsm.app.options import Options
    from bids_qsm.applications.contract import Application, Image
    from bids_qsm.layout.series import Series

VIEWED = ('chi', 'r2star', 'swi', 'magnitude')
"""Maps of a series that the viewer shows, in their order."""


def viewer_path(options: 'Options', series: str, application: str = '') -> Path:
    """File of the volumes of a series, or of one of its applications."""
    folder = options.output_dir / series.partition('_')[0] / 'figures'
    return folder / f'{series}_desc-viewer{application}_volumes.json'


def add_viewer(
    workflow: pe.Workflow,
    *,
    series: 'Series',
    options: 'Options',
    maps: Sequence[str],
    dsegs: dict[str, str],
    runs: Sequence[Run],
    n_series: int,
):
    """Add to the outputs of a series the packing of its volumes, and of those of each application.

    Applications have nodes of their own, as one that fails must not take the maps along. ``workflow`` has an
    inputnode with ``maps``, mask, ``dsegs`` (port -> its file in the output) with the tables beside them, and
    what ``runs`` give; ``n_series`` of the participant share the page, see `shares_of`.
    """
    sizes = Sizes.of(series)
    shown = {run: shown_images(run.app) for run in runs if run.app.scope == 'series'}
    shown = {run: images for run, images in shown.items() if any(images)}
    room, own_rooms = rooms(
        n_series, {run.name: (len(found), len(labels)) for run, (found, labels) in shown.items()}
    )
    looks = [
        {'port': port, 'look': asdict(PRODUCTS[port].look), 'symbol': PRODUCTS[port].symbol}
        for port in VIEWED
        if port in maps
    ]
    labels = [
        {
            'port': port,
            'table': port.replace('dseg', 'labels'),
            'title': f'Regions ({entities_of(path)["seg"]})',
            'stem': Path(path).name.removesuffix('.nii.gz'),
        }
        for port, path in dsegs.items()
    ]
    running = {run.app.name for run in (*shown, *runs_of(series, ('subject',)))}
    stale = [viewer_path(options, series.name, one.name) for one in applications() if one.name not in running]
    inputnode = workflow.get_node('inputnode')
    pack = _packing(workflow, '', looks, labels, viewer_path(options, series.name), room, sizes, stale)
    workflow.link(inputnode, pack, 'mask', *_ports(looks, labels))
    for run, (found, drawn) in shown.items():
        looks, labels = _described(run, found, drawn)
        path = viewer_path(options, series.name, run.app.name)
        pack = _packing(workflow, run.name, looks, labels, path, own_rooms[run.name], sizes)
        workflow.link(inputnode, pack, 'mask', *_ports(looks, labels))


def shares_of(series_list: 'Sequence[Series]') -> int:
    """How many share the viewer of a participant: the series, and sessions with applications of them all."""
    joint = {
        series.session
        for series in series_list
        for run in runs_of(series, ('subject',))
        if any(shown_images(run.app))
    }
    return len(series_list) + len(joint)


def add_joint_viewer(
    workflow: pe.Workflow,
    node: pe.Node,
    run: Run,
    *,
    series_list: 'Sequence[Series]',
    options: 'Options',
    mask: pe.Workflow,
    n_series: int,
):
    """Add the packing of what an application gave of all series of a session, as layers of the first.

    Its images have the grid of that series, whose mask is a port of the graph ``mask``. All applications of a
    session have one of ``n_series`` shares of the page, see `shares_of`.
    """
    found, drawn = shown_images(run.app)
    if not (found or drawn):
        return
    joint = [one for one in runs_of(series_list[0], ('subject',)) if any(shown_images(one.app))]
    own_rooms = joint_rooms(n_series, {one.name: tuple(map(len, shown_images(one.app))) for one in joint})
    path = viewer_path(options, series_list[0].name, run.app.name)
    looks, labels = _described(run, found, drawn)
    # an earlier run may have had another series first
    stale = [viewer_path(options, one.name, run.app.name) for one in series_list[1:]]
    sizes = Sizes.of(series_list[0])
    pack = _packing(workflow, node.name, looks, labels, path, own_rooms[run.name], sizes, stale)
    workflow.link(mask, pack, 'mask')
    inner = {outside: port for port, outside in run.outputs.items()}
    workflow.link(node, pack, **{port: inner[port] for port in _ports(looks, labels)})


def _described(run: Run, found: 'Sequence[Image]', drawn: 'Sequence[Image]') -> tuple[list[dict], list[dict]]:
    """Maps and labels of an application, as `PackVolumes` takes them."""
    looks = [{'port': run.outputs[one.name], 'look': asdict(one.look), 'symbol': ''} for one in found]
    labels = [
        {
            'port': run.outputs[one.name],
            'table': run.outputs[f'{one.name}_lookup'] if one.has_lookup else '',
            'title': one.title,
            'stem': '',
        }
        for one in drawn
    ]
    return looks, labels


def shown_images(app: 'Application'):
    """Maps, and labels or masks, of an application that the viewer shows."""
    return (
        [one for one in app.images if one.look is not None],
        [one for one in app.images if one.suffix in ('dseg', 'mask')],
    )


def _packing(
    workflow: pe.Workflow,
    name: str,
    maps: list[dict],
    labels: list[dict],
    path: Path,
    room: int,
    sizes: Sizes,
    stale: Sequence[Path] = (),
) -> pe.Node:
    """Add the packing of one file, and return the node that takes its images and the mask."""
    end = f'_{name}' if name else ''
    pack = pe.Node(
        PackVolumes(maps, labels, room=room, may_leave_out=bool(name)),
        name=f'pack{end}',
        mem_gb=need(pack_need(len(maps), len(labels)), sizes),
    )
    save = pe.Node(SaveDerivatives({'volumes': path}, remove=map(str, stale)), name=f'save_viewer{end}')
    workflow.link(pack, save, 'volumes')
    return pack


def _ports(maps: list[dict], labels: list[dict]) -> list[str]:
    return [one['port'] for one in (*maps, *labels)] + [one['table'] for one in labels if one['table']]


def pack_need(maps: int, labels: int) -> Need:
    """Memory of packing: all layers stay until they fit, and are text in the end. Measured."""
    return Need(volume=6 + 2 * maps + labels)
