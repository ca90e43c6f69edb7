"""One BOLD run, and the files that go with it."""

from dataclasses import dataclass
from pathlib import Path

from bids_qsm.entities import join_entities


@dataclass(frozen=True)
class BoldRun:
    """A BOLD run, and the files that go with it."""

    entities: tuple[tuple[str, str], ...]
    bold: Path
    shape: tuple[int, ...]
    repetition_time: float
    space: str = ''
    """Space of its grid: '' its own, 'T1w', or that of a template."""
    to_anat: tuple[tuple[Path, bool], ...] = ()
    """Transforms that take points of the run to points of the anatomical image, first to last, and whether
    each is to be inverted; none in the space of the anatomical image."""
    reference: Path | None = None
    mask: Path | None = None
    grey: Path | None = None
    white: Path | None = None
    """Probabilities of tissue on an image in the space of the anatomical one."""
    confounds: Path | None = None
    events: Path | None = None
    start_time: float = 0.0
    is_raw: bool = False
    """Without fMRIPrep: aligned here, and nothing of its series is used."""
    has_fieldmap: bool = False

    @property
    def name(self) -> str:
        return join_entities(self.entities)

    @property
    def paths(self) -> dict[str, object]:
        """What the interface of an application gets of it."""
        files = ('bold', 'reference', 'mask', 'grey', 'white', 'confounds', 'events')
        facts = ('repetition_time', 'start_time', 'is_raw', 'has_fieldmap')
        texts = {name: str(getattr(self, name) or '') for name in files}
        chain = [(str(path), invert) for path, invert in self.to_anat]
        return {**texts, **{name: getattr(self, name) for name in facts}, 'to_anat': chain}

    @property
    def session(self) -> str | None:
        return dict(self.entities).get('ses')
