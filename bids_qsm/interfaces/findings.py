"""Findings of a series, for the log and the report."""

from nipype.interfaces.base import traits

from bids_qsm.interfaces.step import Data, Step, inputs, outputs, record
from bids_qsm.plugins.compare import findings_of_maps
from bids_qsm.plugins.flags import findings_of


class CollectFindings(Step):
    """Gather the findings of all steps of a series in one file."""

    input_spec = inputs(
        series=traits.Str(mandatory=True, desc='name of the series'),
        facts=traits.Dict(mandatory=True, desc='label -> value, for the report'),
        layout_notes=traits.List(traits.Str, desc='notes from reading the dataset'),
        warnings=traits.List(traits.Str, desc='warnings from reading the dataset'),
        conditioning=record('findings of the phase conditioning'),
        fit=record('findings of the fit of the field', optional=True),
        brain=record('findings of the brain mask', optional=True),
        regions=record('findings of the regions of a plug-in and the classical map', optional=True),
        refinement=record('findings of the alignment of the deep grey matter', optional=True),
        reference=record('how susceptibility was referenced', optional=True),
        reference_asked=traits.Str(mandatory=True, desc='region asked for, as ReferenceRegion names it'),
    )
    output_spec = outputs(findings=record('all findings'))

    def compute(self, data: Data):
        findings = [{'what': 'Dataset', 'found': note} for note in data['layout_notes'] or []]
        findings += [
            {'what': 'Dataset', 'found': said, 'level': 'warning'} for said in data['warnings'] or []
        ]
        for step in ('conditioning', 'fit', 'brain', 'refinement'):
            findings += data[step]['findings'] if data[step] else []
        note = data['reference']
        if note:
            fell_back = note['ReferenceRegion'].lower() not in ('none', data['reference_asked'])
            level = 'warning' if fell_back else 'info'
            findings.append({'what': 'Reference', 'found': note['ReferenceDescription'], 'level': level})
            for plugin in note.get('Plugins', ()):
                findings += findings_of(plugin)
            if 'ClassicalComparison' in note:
                findings += findings_of_maps(note['ClassicalComparison'])
            if note.get('SlowVariationUncertainty', 0.0) is None:
                findings.append({'what': 'Slow variation', 'found': _UNTOLD})
        findings += data['regions']['findings'] if data['regions'] else []
        return {'series': data['series'], 'findings': findings, 'facts': data['facts']}


_UNTOLD = (
    'The volume is too small or too coarse to tell from R2* what varies slowly in susceptibility. Slow '
    'differences across it are not reliable.'
)
