"""Interfaces of lesions: numbering and tabulating those drawn, and finding candidates without a mask."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_qsm.biomarkers import focal
from bids_qsm.biomarkers.lesions import EMPTY, FAINT, Drawn, dictionary, label_lesions, lesion_table
from bids_qsm.interfaces.io import load, load_labels, load_mask, read, save_like
from bids_qsm.interfaces.xfm import load_chain, load_xfm


class _LabelLesionsInputSpec(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True, desc='lesion mask, binary or labels')


class _LabelLesionsOutputSpec(TraitedSpec):
    labels = File(exists=True, desc='one label a lesion')
    empty = traits.Str(desc='why there are no labels where there are none')


class LabelLesions(SimpleInterface):
    """Number lesions before they are resampled, so that a lesion has one number in all sessions."""

    input_spec, output_spec = _LabelLesionsInputSpec, _LabelLesionsOutputSpec

    def _run_interface(self, runtime):
        mask = np.nan_to_num(read(self.inputs.mask)[0])
        labels = label_lesions(mask, binary='_mask.nii' in Path(self.inputs.mask).name)
        self._results['labels'] = save_like(labels, self.inputs.mask, runtime.cwd, 'lesions.nii.gz')
        self._results['empty'] = FAINT if mask.any() and not labels.any() else EMPTY
        return runtime


class _LesionTableInputSpec(BaseInterfaceInputSpec):
    chi = File(exists=True, mandatory=True, desc='susceptibility (ppm)')
    r2star = File(exists=True, desc='R2* (1/s)')
    mask = File(exists=True, mandatory=True, desc='where chi holds')
    dseg = File(exists=True, mandatory=True, desc='labels of the atlas on the grid of chi')
    labels = File(exists=True, mandatory=True, desc='their table: index, name, hemisphere, region (TSV)')
    drawn = InputMultiObject(File(exists=True), mandatory=True, desc='numbered lesions as they were drawn')
    placed = InputMultiObject(File(exists=True), mandatory=True, desc='the same on the grid of chi')
    sources = traits.List(traits.Str, mandatory=True, desc='names of the lesion masks, one a drawn image')
    empty = InputMultiObject(traits.Str, desc='why those without labels have none, one a drawn image')
    drawn_on = traits.List(
        traits.Enum('gre', 'anat', 'flair'), mandatory=True, desc='image that each was drawn on'
    )
    gre_to_anat = File(exists=True, desc='resamples the GRE onto the anatomical image')
    flair_to_anat = File(exists=True, desc='resamples the FLAIR onto the anatomical image')
    to_template = InputMultiObject(
        File(exists=True), desc='transforms that take points of the GRE to the template, in order'
    )
    invert = traits.List(traits.Bool, desc='which of them to invert (matrices only); none by default')
    reference = File(exists=True, desc='how chi was referenced (JSON with ReferenceRegion)')


class _TableOutputSpec(TraitedSpec):
    table = File(exists=True, desc='one row a lesion (TSV)')
    dictionary = File(exists=True, desc='description of the columns (JSON)')


class LesionTable(SimpleInterface):
    """Tabulate lesions one by one: place, volume, susceptibility and R2*, sign."""

    input_spec, output_spec = _LesionTableInputSpec, _TableOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        chi, grid = load(inputs.chi)
        empty = list(inputs.empty) if isdefined(inputs.empty) else [EMPTY] * len(inputs.drawn)
        per_image = (list(inputs.drawn), list(inputs.placed), inputs.sources, inputs.drawn_on, empty)
        if len({len(values) for values in per_image}) > 1:
            raise ValueError(
                f'{len(inputs.drawn)} lesion images drawn, but {len(inputs.placed)} placed, '
                f'{len(inputs.sources)} sources, {len(inputs.drawn_on)} of drawn_on and {len(empty)} of empty'
            )
        to_gre = self._chains()
        lesions = [
            Drawn(source, *_drawn(path), load_labels(placed, grid), to_gre[space], why)
            for path, placed, source, space, why in zip(*per_image, strict=True)
        ]
        table = lesion_table(
            chi,
            load(inputs.r2star)[0] if isdefined(inputs.r2star) else None,
            load_mask(inputs.mask),
            lesions,
            load_labels(inputs.dseg, grid),
            pd.read_csv(inputs.labels, sep='\t', keep_default_na=False),
            nib.load(inputs.chi).affine,
            to_template=load_chain(inputs.to_template, inputs.invert),
            reference=_reference(inputs),
        )
        _write(self, table, dictionary(), runtime.cwd, 'lesions')
        return runtime

    def _chains(self):
        """Transforms that take points of each image to the GRE."""
        chains = {'gre': [], 'anat': [], 'flair': []}
        if {'anat', 'flair'} & set(self.inputs.drawn_on):
            chains['anat'] = load_xfm(self.inputs.gre_to_anat)
        if 'flair' in self.inputs.drawn_on:
            chains['flair'] = load_xfm(self.inputs.flair_to_anat, invert=True) + chains['anat']
        return chains


class _FindCandidatesInputSpec(BaseInterfaceInputSpec):
    chi = File(exists=True, mandatory=True, desc='susceptibility (ppm)')
    r2star = File(exists=True, desc='R2* (1/s)')
    mask = File(exists=True, mandatory=True, desc='where chi holds')
    dseg = File(exists=True, mandatory=True, desc='labels of the atlas on the grid of chi')
    labels = File(exists=True, mandatory=True, desc='their table: index, name, hemisphere, region (TSV)')
    to_template = InputMultiObject(
        File(exists=True), desc='transforms that take points of the GRE to the template, in order'
    )
    invert = traits.List(traits.Bool, desc='which of them to invert (matrices only); none by default')
    reference = File(exists=True, desc='how chi was referenced (JSON with ReferenceRegion)')


class _FindCandidatesOutputSpec(_TableOutputSpec):
    image = File(exists=True, desc='one label a candidate')
    table = File(exists=True, desc='one row a candidate (TSV)')


class FindCandidates(SimpleInterface):
    """Find small sources of susceptibility that may be microbleeds or calcifications."""

    input_spec, output_spec = _FindCandidatesInputSpec, _FindCandidatesOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        chi, grid = load(inputs.chi)
        found, table = focal.find_candidates(
            chi,
            load(inputs.r2star)[0] if isdefined(inputs.r2star) else None,
            load_mask(inputs.mask),
            load_labels(inputs.dseg, grid),
            pd.read_csv(inputs.labels, sep='\t', keep_default_na=False),
            nib.load(inputs.chi).affine,
            to_template=load_chain(inputs.to_template, inputs.invert),
            reference=_reference(inputs),
        )
        self._results['image'] = save_like(found, inputs.chi, runtime.cwd, 'candidates.nii.gz')
        _write(self, table, focal.dictionary(), runtime.cwd, 'candidates')
        return runtime


def _drawn(path):
    """Numbered lesions and their affine."""
    data, affine = read(path)
    return np.rint(data).astype(np.int32), affine


def _reference(inputs):
    if not isdefined(inputs.reference):
        return ''
    return json.loads(Path(inputs.reference).read_text())['ReferenceRegion']


def _write(interface, table, described, cwd, name):
    """Write a table and its dictionary."""
    cwd = Path(cwd)
    table.to_csv(cwd / f'{name}.tsv', sep='\t', index=False, na_rep='n/a')
    (cwd / f'{name}.json').write_text(json.dumps(described, indent=2) + '\n')
    interface._results['table'] = str(cwd / f'{name}.tsv')
    interface._results['dictionary'] = str(cwd / f'{name}.json')
