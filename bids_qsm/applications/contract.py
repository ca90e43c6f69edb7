"""What an application declares: what it reads, what it gives, and how its answer is shown.

An application answers one question from the maps of a series: iron of a region, oxygen of a vein, class of a
lesion. Every room reads the declaration: layout finds the inputs, workflows build one node, derivatives name
the files, reports and the group level show them.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from bids_qsm.derivatives.products import PRODUCTS
from bids_qsm.plotting.maps import Look
from bids_qsm.recon.registry import Need

MAPS = tuple(PRODUCTS)
"""Maps of a series on the grid of the GRE that `measure` may name."""

KNOWN = {
    **dict.fromkeys(MAPS, 'a map of the series'),
    'echoes': 'magnitude of all echoes, which are the last axis (any unit)',
    'maps': 'the maps that tables summarise: name in the tables -> array',
    'mask': 'where susceptibility is given (bool)',
    'grid': 'the Grid of the maps',
    'affine': 'voxel to scanner coordinates of the maps (RAS, mm)',
    'dseg': 'labels of the atlas, or of a segmentation of the participant, on the grid of the maps',
    'labels': 'their table: index, name, hemisphere, region; volume_mm3 in the space they come from; source, '
    'confidence, moved_mm and volume_ratio of nuclei that were segmented',
    'probseg': 'share of each voxel in each label (uint8, in 255ths), in the order of the table; None where '
    'the nuclei were not segmented, with a segmentation of the participant, and in the scope subject',
    'atlas': 'name of the atlas or of the segmentation',
    'white_matter': 'deep white matter (bool)',
    'to_template': 'transforms that take points of the scanner to the template, first to last',
    'reference': 'region whose susceptibility is zero',
    'inversion': 'name and parameters of the dipole inversion; None where susceptibility was given',
    'levelled': 'whether the slowly varying part of susceptibility was told from R2* (bool)',
    'sidecar': 'content of the sidecars of the first echo',
    'methods': 'step of the run -> method and parameters, as text; also software and regions',
    'conditioning': 'findings of the conditioning of the phase, with their numbers',
    'echo_times': 'echo times (s)',
    'field_strength': 'field strength (T)',
    'entities': 'BIDS entities of the series',
    'participant': 'column -> value (text, float or None) of the participant in participants.tsv or, where '
    'it states one for the session, in sessions.tsv; empty without these tables',
    'run': 'a BOLD run (`Bold`), in the scope run',
}
"""Arguments that `measure` may name beside its extra inputs, and what each holds."""

FACTS = 'facts'
"""Entry of ``gives`` that holds constants for the sidecars."""
_MASKS = tuple({'suffix': 'mask', 'desc': what} for what in ('brain', 'object'))
_TAKEN = (*_MASKS, *({'suffix': one.suffix} for one in PRODUCTS.values()))
"""Names of the images of the series itself."""
BACKGROUNDS = ('magnitude', 'chi', 'r2star')
"""Maps that a figure takes, in order, where the series lacks that which it names."""
_MEMORY = Need(0.1, volume=10, anat=10)


@dataclass(frozen=True)
class Given:
    """An extra image as it was given, and on the grid of the maps."""

    source: str
    """File name, with as many folders as tell files of one name apart."""
    stored: np.ndarray
    """The image as the file has it."""
    data: np.ndarray
    """The same after `Query.prepare`."""
    affine: np.ndarray
    """Voxel to scanner coordinates of these (RAS, mm)."""
    on_grid: np.ndarray
    """``data`` on the grid of the maps; empty where `Query.beside` names another input."""
    to_maps: list
    """Transforms that take points of the image to points of the maps, first to last."""
    from_maps: list = field(default_factory=list)
    """The other way."""
    echo_times: tuple[float, ...] = ()
    """Of a train of echoes (s), which are the last axis of ``stored`` and ``data``; ``on_grid`` is their
    mean."""
    sidecar: Mapping[str, object] = field(default_factory=dict)
    """Content of the file beside it, where `Query.beside` names another input; what was fitted, of a tensor
    of `Query.gradients`."""
    intent: int = 0
    """Intent code of its NIfTI header, where `Query.beside` names another input."""


@dataclass(frozen=True)
class Bold:
    """A BOLD run, as `measure` gets it in the scope 'run'."""

    frames: Sequence[np.ndarray]
    """Volumes (float32), of which one is read at a time: quickest in rising order."""
    reference: np.ndarray
    """Mean or reference volume on the same grid."""
    mask: np.ndarray
    """Brain (bool)."""
    affine: np.ndarray
    """Voxel to scanner coordinates (RAS, mm)."""
    repetition_time: float
    start_time: float
    """Time (s) that the first frame stands for."""
    to_maps: list
    """Transforms that take points of the run to points of the maps, first to last."""
    to_anat: list
    """The same to points of the anatomical image."""
    grey: tuple[np.ndarray, np.ndarray] | None
    white: tuple[np.ndarray, np.ndarray] | None
    """Probability of tissue in the space of the anatomical image, and its affine."""
    confounds: pd.DataFrame | None
    """Table of fMRIPrep, one row a frame."""
    events: pd.DataFrame | None
    is_raw: bool
    """Whether it was aligned here, rigidly, and not prepared."""
    has_fieldmap: bool | None
    """None where it is not known."""


@dataclass(frozen=True)
class Query:
    """Files beside the maps that an application reads, found in the dataset and in earlier derivatives."""

    name: str
    """Argument of `measure` that gets them: an array on the grid of the maps, or what `get` says."""
    title: str
    """What messages call one: 'lesion mask'."""
    suffix: tuple[str, ...]
    datatype: str | tuple[str, ...] = 'anat'
    """Folder that holds it; any folder where it is empty; one for each suffix where it is a tuple."""
    entities: tuple[tuple[str, str], ...] = ()
    """Entities that the name must have, as (key, pattern): ('label', 'lesion*')."""
    extension: str = '.nii'
    """'.nii' (also .nii.gz) for images, '.tsv' for tables, which come as DataFrame."""
    align: str = 'scanner'
    """'scanner': drawn on, or resampled to, the GRE, the T1w or the FLAIR image, whose alignment is known.
    'own': aligned to the T1w (without one, to the GRE) by mutual information here, with a figure; with the
    entity space-T1w placed as the T1w is, and not used in the space of a template.
    'coordinates': placed by the coordinates of the scanner, for maps so smooth that motion does not matter;
    with space-T1w as above."""
    affine: bool = False
    """Whether an alignment of its own may scale and shear, as for images of other distortion."""
    window: tuple[float, float] | None = None
    """Of an image with units of its own, such as Hounsfield units: least and largest value that the alignment
    and its figure tell apart. It is not corrected for bias then."""
    sheared: bool = False
    """Whether its voxel axes may lie at other than right angles, as those of CT with a tilted gantry do."""
    problem: Callable[[np.ndarray, str], str | None] | None = None
    """Called with the stored image and its file name: why it cannot be used, in one sentence, or None."""
    option: str = ''
    """Field of `Options` by which the user may name the files, as a glob pattern, and so ask for the
    application."""
    outside_bids: bool = False
    """Whether BIDS has no name for it: such files are read though .bidsignore names them, do not make a
    dataset invalid, and may be of another session than the series."""
    whole: bool = False
    """Whether `measure` gets the one file as `Given` and not on the grid of the maps alone."""
    echoes: int = 0
    """Least number of echoes of a train: files that differ in the entity echo alone are one input, whose
    echo times are multiples of the first. 0 where each file is an input of its own."""
    gradients: bool = False
    """Whether it is a series of diffusion images with .bval and .bvec: a tensor is fitted to one shell of it
    before, and `measure` gets its fractional anisotropy and itself, a pair of Given. The mean of its images
    without diffusion weighting is aligned."""
    foreign: bool = False
    """Whether it comes from elsewhere: what an earlier run of this software wrote is not read."""
    instead_of: str = ''
    """Name of another input, which is not read where this one is there."""
    names: tuple[str, ...] = ()
    """Patterns of the file name without extension, of which one must fit: ``('*_dwimap', '*_FA')``."""
    spaces: tuple[str, ...] = ()
    """Values of the entity space- of an image that is aligned by itself, beside those of every one; T1w among
    them is aligned too, where software calls its own T1w image so."""
    beside: str = ''
    """Name of another input that it belongs to: of the same folder and grid, placed as that is, and read
    only with it. It may have more volumes than one, is not resampled, and is given whole."""
    interpolation: str = 'linear'
    prepare: Callable[[np.ndarray, str], np.ndarray] | None = None
    """Called with the stored image and its file name, before it is resampled."""
    many: bool = False
    """Whether `measure` gets all files (a tuple of Given) or one."""
    optional: bool = True
    """Without it the application runs, and the report says so; without any other it is left out."""

    @property
    def is_image(self) -> bool:
        return self.extension == '.nii'


@dataclass(frozen=True)
class Column:
    """A column of a table, or a map that a tidy table summarises."""

    name: str
    about: str
    units: str = ''


@dataclass(frozen=True)
class Image:
    """An image that an application writes on the grid of the maps."""

    name: str
    suffix: str
    about: str
    units: str = ''
    desc: str | None = None
    """Entity desc-: none where it is empty, and the name of the image where it is None, as several images may
    share a suffix."""
    entities: tuple[tuple[str, str], ...] = ()
    """Entity label- of the file: (('label', 'vein'),)."""
    lookup: tuple[tuple[int, str], ...] = ()
    """Index and name of each label of a dseg, for the table beside it."""
    named: bool = False
    """Whether `measure` gives a dseg as a pair with a dict of these, index -> name."""
    facts: str = ''
    """Entry of the facts, a dict, that its sidecar states in place of all; nothing else states it."""
    look: Look | None = None
    """How the viewer of the page shows a map (3D): it shows maps with a look, and all labels and masks, in
    the scopes 'series' and 'subject'. A figure of a map has its window, in grey."""

    @property
    def has_lookup(self) -> bool:
        """Whether a table of its labels is beside it."""
        return self.named or bool(self.lookup)

    @property
    def title(self) -> str:
        """What the viewer calls labels or a mask: no other image of labels of a series is called so."""
        return re.split('[,:;]', self.about)[0]

    @property
    def place(self) -> dict[str, str]:
        """Suffix and entities that tell its file from others of the series."""
        desc = self.name if self.desc is None else self.desc
        return {'suffix': self.suffix, **dict(self.entities), **({'desc': desc} if desc else {})}


@dataclass(frozen=True)
class Table:
    """A table that an application writes: one row an event, or tidy rows by region, hemisphere and map."""

    name: str = 'table'
    """Letters and digits: its place in ``gives``."""
    title: str = ''
    """Heading in reports; that of the application where it is empty."""
    suffix: str = 'stats'
    """Only tables with 'stats' are shown in reports and gathered at the group level."""
    entities: tuple[tuple[str, str], ...] | None = None
    """Entities label- or desc- of the file; by default desc- and the name of the table, or that of the
    application for the table called 'table'."""
    columns: tuple[Column, ...] = ()
    """Of a table of events all columns; of a tidy table those beside the usual ones."""
    maps: tuple[Column, ...] = ()
    """Maps of a tidy table: what stands in its column map."""
    dictionary: Callable[[str], dict] | None = None
    """Data dictionary by the name of the atlas, where a function has it rather than ``columns``."""
    shown: tuple[str, ...] = ()
    """Columns on the page of the participant; all where empty."""
    caption: str = ''
    cohort: str | Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """How it joins the statistics of the group level: 'tidy' as it is (region, hemisphere, map, mean, se,
    units), or a function that makes such rows of the table of one series."""

    def described(self, atlas: str = '') -> dict:
        """BIDS data dictionary of the table."""
        if self.dictionary is not None:
            return self.dictionary(atlas)
        described = {}
        if self.cohort == 'tidy':
            from bids_qsm.biomarkers.region_columns import dictionary

            described = dictionary(atlas)
            maps = '; '.join(f'{m.name}: {m.about} ({m.units or "no unit"})' for m in self.maps)
            described['map'] = {'Description': f'What the row is about. {maps}.'}
        for column in self.columns:
            described[column.name] = {'Description': column.about}
            if column.units:
                described[column.name]['Units'] = column.units
        return described


@dataclass(frozen=True)
class Document:
    """A JSON file that an application writes."""

    name: str
    """Its place in ``gives``."""
    desc: str
    """Entity desc-."""
    suffix: str = 'checklist'


@dataclass(frozen=True)
class Figure:
    """A picture of the report: an image of the application, outlined over a map or by itself; or a chart."""

    name: str
    title: str
    caption: str
    over: str = ''
    """Map that the labels or mask called like the figure are outlined on, or the first of `BACKGROUNDS` that
    the series has, where it lacks that map; 'boldref' in the scope run."""
    draw: Callable[..., str | bytes] | None = None
    """Draws a chart (SVG, as text) or, where it is a ``picture``, PNG (bytes)."""
    picture: bool = False
    table: str = 'table'
    """Name of the table that ``draw`` gets first; none where it is empty."""
    takes: tuple[str, ...] = ()
    """What ``draw`` gets after it: names of other tables, of images, of arguments of `measure` and of `MAPS`
    (None where the series lacks one), 'facts', and 'affine' of the maps. There is no figure where an image of
    the application that it takes was not made."""
    after: str = ''
    """Figure that this one follows on the page; the last where it is empty."""


@dataclass(frozen=True)
class Variant:
    """What depends on the parameters that the user set, of an application that has several methods."""

    method: str
    """Sentence for the methods text."""
    memory: Need
    needs: tuple[str, ...] = ()
    """Arguments of `measure` that may be None, but not with these parameters."""
    spares: tuple[str, ...] = ()
    """Those that are not read with these parameters."""
    one_of: tuple[str, ...] = ()
    """As `Application.one_of`, with these parameters."""


@dataclass(frozen=True)
class Application:
    """One answer from the maps of a series; see docs/architecture.md for how to write one."""

    name: str
    """Letters and digits; also the flag of the command line."""
    title: str
    measure: Callable
    """Arrays in, arrays and tables out. Its positional arguments are names of `KNOWN` and of ``extra``, or
    <application>_<name> for an image or a table of one that it ``uses``; one that may be None is optional.
    Keyword-only arguments are parameters that the user may set."""
    gives: tuple[str, ...] = ('table',)
    """What `measure` returns, in order: names of ``images``, ``tables`` and ``documents``, and 'facts':
    constants, their sources, what was assumed (name -> text, number, None, or a dict of these), which the
    sidecars of its images and of tables with 'stats' state as Constants. None stands for what cannot be made,
    and a table may come as a pair with a dict that says more of its columns."""
    extra: tuple[Query, ...] = ()
    one_of: tuple[str, ...] = ()
    """Names of extra inputs of which any will do: without all of them it is left out."""
    uses: tuple[str, ...] = ()
    """Names of other applications whose answers `measure` takes; they run before it, and are written too."""
    images: tuple[Image, ...] = ()
    tables: tuple[Table, ...] = ()
    documents: tuple[Document, ...] = ()
    figures: tuple[Figure, ...] = ()
    overview: Callable[[pd.DataFrame], dict] | None = None
    """Section of the cohort's page from the rows of all series in the first of `tables_of_events`: question,
    answers (sentences), figures (title, SVG, caption) and tables (title, DataFrame, caption)."""
    scope: str = 'series'
    """'series'; 'labels': once for the atlas and for each segmentation of the participant; 'subject': once
    for all series of a session, where each argument is a list with an entry a series; 'run': once for each
    BOLD run of the session, where images lie on the grid of the run and files are named after it."""
    check: Callable[[Mapping[str, object], Mapping[str, object]], object] | None = None
    """Called before anything runs with what the tables say of the participant and with the parameters that
    the user set; raises UserError where these cannot be used."""
    check_session: Callable[[Sequence[str], Sequence[Sequence[float]], Mapping], dict[str, str]] | None = None
    """In the scope subject, called before anything runs with the names of the series of a session that take
    part, the voxel sizes (mm) at which they are reconstructed, and the tables among extra inputs (name ->
    name of the file, DataFrame); returns those that do not go with the others and why, and raises UserError
    where a table is wrong."""
    fewest_echoes: int = 2
    """Echoes that a series must have where `measure` takes ``echoes``; it is left out with fewer."""
    fewest_series: int = 1
    """Series that a session must have, in the scope subject; it is left out with fewer."""
    asked: bool = True
    """Whether it runs only where the command line asks for it."""
    joins: bool = False
    """Whether it also runs where all that it uses is asked for, if its inputs are there."""
    files: tuple[tuple[str, str], ...] = ()
    """Name and text of files at the root of the output dataset: settings for other software."""
    method: str = ''
    """Sentence for the methods text, with citations as [@key]."""
    memory: Need = _MEMORY
    memory_of_many: Need | None = None
    """Memory with a segmentation of the whole brain, where it is more."""
    variants: Callable[[Mapping[str, object]], Variant] | None = None
    """Called with the parameters that the user set, before anything runs: what depends on them. It raises
    UserError where they cannot be used."""

    @cached_property
    def arguments(self) -> dict[str, bool]:
        """Arguments of `measure` that hold data -> whether they are required."""
        found = {}
        for name, one in inspect.signature(self.measure).parameters.items():
            if one.kind is not one.KEYWORD_ONLY:
                found[name] = one.default is one.empty and 'None' not in str(one.annotation)
        return found

    def variant(self, params: Mapping[str, object]) -> Variant:
        """Methods text, memory and inputs with the parameters that the user set."""
        return self.variants(params) if self.variants else Variant(self.method, self.memory)

    @cached_property
    def of_others(self) -> dict[str, tuple[str, str]]:
        """Arguments of `measure` that others give -> application, and name of its image or table."""
        own = (*KNOWN, *(query.name for query in self.extra))
        split = {name: name.partition('_')[::2] for name in self.arguments if name not in own}
        return {name: pair for name, pair in split.items() if pair[0] in self.uses}

    def require(self, other: 'Application'):
        """Raise ValueError unless ``other`` gives, for each series, what this application uses of it."""
        made = [*(one.name for one in other.images), *(one.name for one in other.tables)]
        lost = [name for of, name in self.of_others.values() if of == other.name and name not in made]
        if lost:
            raise ValueError(f'{self.name}: {other.name} has no image or table {lost[0]!r}')
        if self.scope not in ('series', 'run') or other.scope != 'series':
            raise ValueError(
                f'{self.name} uses {other.name}: that must have the scope series, this too, or run'
            )

    def __post_init__(self):
        names = [query.name for query in self.extra]
        unknown = [name for name in self.arguments if name not in (*KNOWN, *names, *self.of_others)]
        lacking = [name for name in names if name not in self.arguments]
        if unknown or lacking:
            raise ValueError(f'{self.name}: measure and extra inputs do not agree on {unknown or lacking}')
        idle = set(self.uses) - {name for name, _ in self.of_others.values()}
        if idle:
            raise ValueError(f'{self.name}: measure takes nothing of {min(idle)}')
        self._check_images()
        if self.facts_of_images and not self.has_facts:
            raise ValueError(f'{self.name}: an image has facts, which measure does not give')
        if any(query.many for query in self.own):
            raise ValueError(f'{self.name}: an input with an alignment of its own is one file')
        if any(query.echoes and (query.many or not query.whole) for query in self.extra):
            raise ValueError(f'{self.name}: a train of echoes is one input, given whole')
        if not set(self.one_of) <= {query.name for query in self.extra if query.optional}:
            raise ValueError(f'{self.name}: one_of names optional extra inputs')
        if any(one.gradients and one.align != 'own' for one in self.extra):
            raise ValueError(f'{self.name}: diffusion images have an alignment of their own')
        if any(one.instead_of not in ('', *names) for one in self.extra):
            raise ValueError(f'{self.name}: an input is there instead of one that it names')
        if any(one.beside and (one.beside not in names or not one.whole) for one in self.extra):
            raise ValueError(f'{self.name}: an input beside another names that, and is given whole')
        made = [*(one.name for one in self.images), *(one.name for one in self.tables)]
        made += [one.name for one in self.documents]
        if sorted(self.gives) != sorted([*made, *([FACTS] if self.has_facts else [])]):
            raise ValueError(f'{self.name}: measure gives {self.gives}, but {made} are declared')
        tables = [table.name for table in self.tables]
        lost = [one.table for one in self.figures if one.draw and one.table not in (*tables, '')]
        if lost:
            raise ValueError(f'{self.name}: a figure draws {lost[0]}, which is no table of it')
        there = {*made, *self.arguments, *MAPS, 'affine', *self.gives}
        lost = [name for one in self.figures for name in one.takes if name not in there]
        if lost:
            raise ValueError(f'{self.name}: a figure takes {lost[0]}, which is not there')
        files = [[table.suffix, *sorted(self.entities_of(table).items())] for table in self.tables]
        if any(one in files[:i] for i, one in enumerate(files)):
            raise ValueError(f'{self.name}: two of its tables have the same entities')

    def _check_images(self):
        """Raise ValueError where an image has no name of its own in the output."""
        places = [*_TAKEN]
        for one in self.images:
            if not re.fullmatch('[0-9A-Za-z]*map|mask|dseg|probseg', one.suffix):
                rule = f'the suffix {one.suffix} of an image must end in map, or be mask, dseg, probseg'
                raise ValueError(f'{self.name}: {rule}')
            odd = [key for key, _ in one.entities if key != 'label']
            if odd or (one.has_lookup and one.suffix != 'dseg'):
                what = f'the entity {odd[0]}' if odd else 'a table of labels'
                raise ValueError(f'{self.name}: the image {one.name} cannot have {what}')
            units = [one.units] if one.units else ['1', 'arbitrary']
            if one.look is not None and one.look.unit not in units:
                raise ValueError(f'{self.name}: the look of the image {one.name} has another unit')
            if one.place in places:
                raise ValueError(f'{self.name}: the image {one.name} would get the name of another')
            places.append(one.place)

    @property
    def has_facts(self) -> bool:
        """Whether `measure` gives constants for the sidecars."""
        return FACTS in self.gives

    @property
    def facts_of_images(self) -> list[str]:
        """Entries of the facts that some images state, each once."""
        return list(dict.fromkeys(image.facts for image in self.images if image.facts))

    @property
    def of_runs(self) -> bool:
        return self.scope == 'run'

    @property
    def own(self) -> list[Query]:
        """Extra images that are aligned by themselves."""
        return [query for query in self.extra if query.align == 'own' and not query.beside]

    @property
    def tables_of_events(self) -> list[Table]:
        """Tables that are not tidy; the first is that of ``overview``."""
        return [table for table in self.tables if table.cohort != 'tidy' and table.suffix == 'stats']

    def kind(self, output: str) -> str:
        """Suffix of an image of this application, or 'table'."""
        return {image.name: image.suffix for image in self.images}.get(output, 'table')

    def key(self, table: Table) -> str:
        """Name of a table among those of all applications."""
        return self.name if table.name == 'table' else f'{self.name}_{table.name}'

    def entities_of(self, table: Table) -> dict[str, str]:
        """Entities that tell a table from those of other applications."""
        if table.entities is None:
            return {'desc': self.name if table.name == 'table' else table.name}
        return dict(table.entities)

    def wrote(self, entities: Mapping[str, str]) -> Table | None:
        """The table whose file has these entities; None where it is none of this application."""
        own = {key: entities[key] for key in ('desc', 'label') if key in entities}
        if ('seg' in entities) != (self.scope == 'labels'):
            return None
        return next((table for table in self.tables if own == self.entities_of(table)), None)
