"""The interface that runs an application: load what it names, call it, save what it gives."""

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    DynamicTraitedSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    isdefined,
    traits,
)
from nipype.interfaces.base.support import Bunch
from nipype.interfaces.io import add_traits

from bids_qsm.anatomy.bias import foreground
from bids_qsm.anatomy.transform import resample, resample_labels
from bids_qsm.applications.contract import (
    BACKGROUNDS,
    FACTS,
    MAPS,
    Application,
    Bold,
    Figure,
    Given,
    Query,
    Table,
)
from bids_qsm.biomarkers.regions import QUALITY
from bids_qsm.biomarkers.vein_signal import mean_frame
from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.derivatives.tables import read_labels, read_table, write_table
from bids_qsm.errors import UserError
from bids_qsm.interfaces.io import (
    Frames,
    grid_of,
    load,
    load_labels,
    load_mask,
    load_shares,
    load_volume,
    read,
    read_record,
    save_like,
    without_frames,
    write_record,
)
from bids_qsm.interfaces.xfm import load_chain, load_xfm
from bids_qsm.plotting.maps import BOLD_REFERENCE, Look, plot_map, plot_outlines
from bids_qsm.recon.grid import Grid

FILES: tuple[str, ...] = (*MAPS, 'mask', 'dseg', 'labels', 'own_dseg', 'probseg', 'white_matter')
FILES += ('to_template', 'reference', 'echoes', 'conditioning')
"""Input ports that hold a file a series; 'to_template' holds several."""


class _MeasureInputSpec(DynamicTraitedSpec):
    application = traits.Str(mandatory=True, desc='module that holds the APPLICATION')
    params = traits.Dict(value={}, usedefault=True, desc='parameters that the user set')
    series = traits.List(
        traits.Dict,
        mandatory=True,
        desc='entities, echo_times, field_strength, inversion, atlas, participant of each series',
    )
    invert = traits.List(traits.Bool, value=[], usedefault=True, desc='transforms of to_template to invert')
    extra = traits.List(
        traits.Dict,
        mandatory=True,
        desc='of each series: query -> list of (path, space it is in, name to show, echo time or None)',
    )
    others = traits.Dict(
        value={},
        usedefault=True,
        desc="argument that another application gives -> suffix of the image, or 'table'",
    )
    gre_to_anat = InputMultiObject(
        File(exists=True), desc='of each series: resamples the GRE onto the anatomical image'
    )
    run = traits.Dict(
        desc='in the scope run: what `layout.bold_runs.BoldRun` says of the run, its paths as text'
    )
    run_to_anat = InputMultiObject(
        File(exists=True), desc='resamples the run onto the anatomical image, where it was aligned here'
    )
    run_mean = File(exists=True, desc='mean of the run, where it was aligned here')
    flair_to_anat = File(exists=True, desc='resamples the FLAIR onto the anatomical image')
    own_to_anat = InputMultiObject(
        File(exists=True),
        desc='the same for each query with an alignment of its own that has a file, in order',
    )
    plugin_files = traits.List(File(exists=True), desc='files of the plug-ins that parameters name')
    fitted = InputMultiObject(
        File(exists=True), desc='of diffusion images: fractional anisotropy, tensor, and its sidecar'
    )


for _port in FILES:
    _MeasureInputSpec.add_class_trait(_port, InputMultiObject(File(exists=True)))


class Measure(SimpleInterface):
    """Run an application on the maps of a series, or of all series of a session.

    It has an input port for each of ``others``, and an output port for each image and document,
    '<name>_lookup' for the labels of an image, '<name>' and '<name>_dictionary' for each table,
    'figure_<name>' for each figure, 'facts' where these go into the sidecars of images, and 'facts_<name>'
    for those of some images alone.
    """

    input_spec, output_spec = _MeasureInputSpec, DynamicTraitedSpec

    def __init__(self, others: dict[str, str] | None = None, **inputs: object):
        super().__init__(others=others or {})
        add_traits(self.inputs, [*self.inputs.others], File(exists=True))
        self.inputs.trait_set(**inputs)

    @property
    def _application(self) -> Application:
        return import_module(self.inputs.application).APPLICATION

    def _outputs(self):
        return add_traits(DynamicTraitedSpec(), outputs_of(self._application))

    def _run_interface(self, runtime: Bunch) -> Bunch:
        one, cwd = self._application, Path(runtime.cwd)
        given = [self._arguments(one, number) for number in range(len(self.inputs.series))]
        as_lists = one.scope == 'subject'
        data = [[part[name] for part in given] if as_lists else given[0][name] for name in one.arguments]
        found = one.measure(*data, **self.inputs.params)
        found = dict(zip(one.gives, found if len(one.gives) > 1 else (found,), strict=True))
        for image in one.images:
            if found[image.name] is None:
                continue
            names = dict(image.lookup)
            if image.named:
                found[image.name], names = found[image.name]
            saved = save_like(found[image.name], self._grid(), cwd, f'{image.name}.nii.gz')
            self._results[image.name] = saved
            if image.has_lookup:
                lookup = pd.DataFrame(names.items(), columns=['index', 'name'])
                path = write_table(lookup, cwd / f'{image.name}_lookup.tsv')
                self._results[f'{image.name}_lookup'] = str(path)
        facts = {}
        if one.has_facts:
            stated = dict(found[FACTS])
            for name in one.facts_of_images:
                if name in stated:
                    own = {'Constants': _plain(stated.pop(name))}
                    self._results[f'{FACTS}_{name}'] = str(write_record(own, cwd / f'facts_{name}.json'))
            facts = {'Constants': _plain(stated)}
        if facts and one.images:
            self._results[FACTS] = str(write_record(facts, cwd / 'facts.json'))
        for table in one.tables:
            if found[table.name] is not None:
                # what else has the name of fMRIPrep's table has one entry a column
                self._write_table(table, found[table.name], facts if table.suffix == 'stats' else {}, cwd)
        for document in one.documents:
            if found[document.name] is None:
                continue
            path = write_record(_plain(found[document.name]), cwd / f'{document.name}.json')
            self._results[document.name] = str(path)
        for figure in one.figures:
            # a chart may be drawn from images alone
            shown = figure.table if figure.draw else figure.name
            drawn_of = [image.name for image in one.images if image.name in figure.takes]
            if any(found[name] is None for name in (*filter(None, [shown]), *drawn_of)):
                continue
            if figure.draw is not None:
                drawn = figure.draw(*self._taken(one, figure, {**given[0], **found}, cwd))
                content, extension = (drawn, 'png') if figure.picture else (drawn.encode(), 'svg')
            else:
                content, extension = self._picture(one, figure, found, given[0].get('run')), 'png'
            path = cwd / f'{figure.name}.{extension}'
            path.write_bytes(content)
            self._results[f'figure_{figure.name}'] = str(path)
        return runtime

    def _file(self, port: str, number: int = 0):
        """The file of a port for a series (several of 'to_template'), None where there is none."""
        files = getattr(self.inputs, port)
        if not isdefined(files):
            return None
        if port == 'to_template':
            step = len(self.inputs.invert)
            return files[number * step : (number + 1) * step]
        return files[number]

    def _like(self, number: int = 0) -> str:
        """A file on the grid of the maps."""
        return next(filter(None, (self._file(port, number) for port in (*MAPS, 'mask'))))

    def _grid(self) -> str:
        """A file on the grid of the images that the application gives."""
        return self.inputs.run['bold'] if self._application.of_runs else self._like()

    def _arguments(self, one: Application, number: int) -> dict[str, object]:
        """What `measure` gets of one series, by name."""
        path = {port: self._file(port, number) for port in FILES}
        image = nib.load(self._like(number))
        affine, grid = image.affine, grid_of(image)
        facts = self.inputs.series[number]
        queries = {query.name: query for query in one.extra}
        found = {}
        for name in one.arguments:
            if name in queries:
                found[name] = self._extra(queries[name], number, grid, affine)
            elif name in self.inputs.others:
                found[name] = self._output(name, grid)
            elif name == 'run':
                found[name] = self._run(number)
            elif name == 'maps':
                there = {port: product for port, product in PRODUCTS.items() if product.column and path[port]}
                found[name] = {product.column: load(path[port])[0] for port, product in there.items()}
            elif name in ('grid', 'affine'):
                found[name] = {'grid': grid, 'affine': affine}[name]
            elif name == 'to_template':
                found[name] = load_chain(path[name] or [], self.inputs.invert)
            elif name in ('entities', 'participant'):
                found[name] = dict(facts.get(name, {}))
            elif name not in FILES:
                found[name] = facts.get(name)
            elif path[name] is None:
                found[name] = '' if name == 'reference' else None
            else:
                found[name] = _LOAD.get(name, _load_map)(path[name], grid)
        if 'labels' in found and path['own_dseg'] is not None:
            found['labels']['volume_mm3'] = _volumes(path['own_dseg'], found['labels']['index'])
        return found

    def _output(self, name: str, grid: Grid) -> np.ndarray | pd.DataFrame | None:
        """An image or a table of another application; None where that does not run."""
        path, kind = getattr(self.inputs, name), self.inputs.others[name]
        if not isdefined(path):
            return None
        if kind == 'table':
            return read_table(path)
        return (_LOAD[kind] if kind in ('mask', 'dseg') else _load_map)(path, grid)

    def _run(self, number: int) -> Bold:
        """The BOLD run, of which frames are read when they are needed."""
        run, maps = self.inputs.run, self.inputs.gre_to_anat[number]
        frames = Frames(run['bold'])
        if isdefined(self.inputs.run_to_anat):
            to_anat = load_chain(self.inputs.run_to_anat, [True])
        else:
            to_anat = load_chain(*([list(side) for side in zip(*run['to_anat'], strict=True)] or [[], []]))
        tissue = {name: load_volume(run[name]) if run[name] else None for name in ('grey', 'white')}
        mean = self.inputs.run_mean if isdefined(self.inputs.run_mean) else run['reference']
        reference = load_volume(mean)[0] if mean else mean_frame(frames)
        mask = load_mask(run['mask']) if run['mask'] else foreground(reference)
        tables = {name: read_table(run[name]) if run[name] else None for name in ('confounds', 'events')}
        facts = {key: run[key] for key in ('repetition_time', 'start_time', 'is_raw', 'has_fieldmap')}
        return Bold(
            frames=frames,
            reference=reference,
            mask=mask,
            affine=frames.affine,
            to_maps=[*to_anat, *load_xfm(maps)],
            to_anat=to_anat,
            **tissue,
            **tables,
            **facts,
        )

    def _extra(self, query: Query, number: int, grid: Grid, affine: np.ndarray):
        """The files of an extra input: arrays on the grid of the maps, Given, or a table."""
        files = self.inputs.extra[number].get(query.name, [])
        if not query.is_image:
            tables = [read_table(path) for path, *_ in files]
            return tuple(tables) if query.many else next(iter(tables), None)
        if query.echoes:
            return self._given(query, number, files, grid, affine) if files else None
        if query.gradients:
            return self._fitted(query, number, files[0]) if files else None
        given = tuple(self._given(query, number, [one], grid, affine) for one in files)
        if query.many:
            return given
        if query.whole:
            return next(iter(given), None)
        return given[0].on_grid if given else None

    def _given(self, query: Query, number: int, files: list[tuple], grid: Grid, affine: np.ndarray) -> Given:
        """One image, or the echoes of a train."""
        path, space, source = files[0][:3]
        there, back = self._transforms(query, number, space)
        if query.beside:
            stored, own = read(path)
            sidecar = Path(path).with_name(Path(path).name.partition('.')[0] + '.json')
            said = read_record(sidecar) if sidecar.is_file() else {}
            intent = int(nib.load(path).header.get('intent_code', 0))
            nothing = np.empty(0, np.float32)
            return Given(source, stored, stored, own, nothing, back, there, sidecar=said, intent=intent)
        stored, own = self._volume(query, path)
        data = stored
        if query.echoes:  # one array, as a train may be large
            data = np.empty((*stored.shape, len(files)), np.float32)
            for k, (name, *_) in enumerate(files):
                data[..., k] = np.nan_to_num(self._volume(query, name)[0])
            stored = data
        if query.prepare is not None:
            data = query.prepare(stored, Path(path).name)
        elif not query.echoes:
            data = np.nan_to_num(stored)
        if query.interpolation == 'label':
            labels = np.rint(data).astype(np.int32)
            on_grid = resample_labels(labels, own, grid.shape, affine, there).astype(np.int32)
        else:
            seen = data.mean(-1) if query.echoes else data
            on_grid = resample(seen.astype(np.float32), own, grid.shape, affine, there)
        times = tuple(time for *_, time in files) if query.echoes else ()
        return Given(source, stored, data, own, on_grid, back, there, times)

    def _fitted(self, query: Query, number: int, file: tuple) -> tuple[Given, Given]:
        """Fractional anisotropy and tensor of diffusion images."""
        *paths, facts = self.inputs.fitted
        there, back = self._transforms(query, number, file[1])
        fa, tensor = (
            Given(
                file[2], stored, stored, own, np.empty(0, np.float32), back, there, sidecar=read_record(facts)
            )
            for stored, own in map(read, paths)
        )
        return fa, tensor

    def _volume(self, query: Query, path: str) -> tuple[np.ndarray, np.ndarray]:
        """One 3D image, and its affine."""
        stored, own = read(path)
        stored = without_frames(stored)
        if stored.ndim != 3:
            raise UserError(f'the {query.title} {path} has shape {stored.shape}; give one 3D volume.')
        return stored, own

    def _transforms(self, query: Query, number: int, space: str) -> tuple[list, list]:
        """Transforms of points of the maps to an extra image, and back."""
        if query.beside:
            query = next(one for one in self._application.extra if one.name == query.beside)
            space = self.inputs.extra[number][query.name][0][1]
        if space == 'gre':
            return [], []
        anat = self.inputs.gre_to_anat[number]
        if space == 'anat':
            return load_chain([anat], [True]), load_xfm(anat)
        if space == 'flair':
            own = self.inputs.flair_to_anat
        else:
            first = self.inputs.extra[0]
            aligned = [
                q.name for q in self._application.own if any(f[1] == 'own' for f in first.get(q.name, []))
            ]
            own = self.inputs.own_to_anat[aligned.index(query.name)]
        return load_chain([anat, own], [True, False]), load_xfm(own, invert=True) + load_xfm(anat)

    def _write_table(
        self, one: Table, given: pd.DataFrame | tuple[pd.DataFrame, dict], facts: dict, cwd: Path
    ):
        table, more = given if isinstance(given, tuple) else (given, {})
        described = one.described(self.inputs.series[0].get('atlas', ''))
        text = {
            column: {**described.get(column, {}), **more.get(column, {})}
            for column in table
            if column in described or column in more
        }
        name, dictionary = one.name, f'{one.name}_dictionary'
        self._results[name] = str(write_table(table, cwd / f'{name}.tsv'))
        self._results[dictionary] = str(write_record({**text, **facts}, cwd / f'{dictionary}.json'))

    def _taken(self, one: Application, figure: Figure, data: dict, cwd: Path):
        """What a figure is drawn from, in order; tables as they are read."""
        tables = {table.name for table in one.tables}
        for name in filter(None, (figure.table, *figure.takes)):
            if name in tables:
                yield read_table(cwd / f'{name}.tsv')
            elif name in data:
                yield data[name]
            elif name == 'affine':
                yield nib.load(self._grid()).affine
            else:
                yield read(self._file(name))[0].astype(np.float32) if self._file(name) else None

    def _picture(
        self, one: Application, figure: Figure, found: dict[str, np.ndarray], run: Bold | None
    ) -> bytes:
        """A figure of an image of the application, as PNG."""
        if run is not None:
            mask, affine = run.mask, run.affine
        else:
            mask = load_mask(self._file('mask')) if self._file('mask') else None
            affine = nib.load(self._grid()).affine
        image = next(image for image in one.images if image.name == figure.name)
        data = np.asarray(found[figure.name])
        if not figure.over:
            look = image.look or Look(figure.title, image.units or 'arbitrary')
            look = replace(look, cmap='gray')  # as captions say what is bright
            return plot_map(data, affine, look=look, mask=mask, title=figure.title)
        if run is not None:
            outlined = {'mask': data > 0 if data.any() else mask}
            back, look = run.reference, BOLD_REFERENCE
        else:
            outlined = {'dseg': data.astype(np.int32)} if data.any() else {'mask': mask}
            if data.any() and image.lookup:
                outlined['labels'] = pd.DataFrame(image.lookup, columns=['index', 'name'])
            port = next(filter(self._file, (figure.over, *BACKGROUNDS)))
            (back, affine), look = read(self._file(port)), PRODUCTS[port].look
        return plot_outlines(back.astype(np.float32), affine, look=look, title=figure.title, **outlined)


def outputs_of(one: Application) -> list[str]:
    """Output ports of the node of an application."""
    return [
        *(image.name for image in one.images),
        *(f'{image.name}_lookup' for image in one.images if image.has_lookup),
        *([FACTS] if one.has_facts and one.images else []),
        *(f'{FACTS}_{name}' for name in one.facts_of_images),
        *(document.name for document in one.documents),
        *(port for table in one.tables for port in (table.name, f'{table.name}_dictionary')),
        *(f'figure_{figure.name}' for figure in one.figures),
    ]


def _plain(value: object) -> object:
    """Facts as JSON has them: numbers of numpy as those of Python, what is not finite as None.

    >>> _plain({'hematocrit': {'value': np.float32(0.5), 'n': np.int64(3)}, 'age': np.nan, 'from': 'n/a'})
    {'hematocrit': {'value': 0.5, 'n': 3}, 'age': None, 'from': 'n/a'}
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _load_map(path: str, grid: Grid) -> np.ndarray:
    del grid
    return load(path)[0]


def _load_table(path: str) -> pd.DataFrame:
    """Table of labels, with numbers for what segmentation found."""
    table = read_labels(path)
    numbers = [name for name in QUALITY if name in table and name != 'source']
    return table.assign(**{name: pd.to_numeric(table[name], errors='coerce') for name in numbers})


_LOAD = {
    'mask': lambda path, _: load_mask(path),
    'echoes': lambda path, _: load(path)[0],
    'dseg': load_labels,
    'white_matter': lambda path, grid: load_labels(path, grid) > 0,
    'labels': lambda path, _: _load_table(path),
    'probseg': lambda path, _: load_shares(path),
    'reference': lambda path, _: read_record(path)['ReferenceRegion'],
    'conditioning': lambda path, _: read_record(path)['findings'],
}


def _volumes(path: str, index: pd.Series) -> np.ndarray:
    """Volume (mm^3) of each label of an image."""
    image = nib.load(path)
    found = np.rint(np.asanyarray(image.dataobj)).astype(np.int64).ravel()
    counts = np.bincount(found, minlength=int(index.max()) + 1)
    return counts[index] * abs(np.linalg.det(image.affine[:3, :3]))
