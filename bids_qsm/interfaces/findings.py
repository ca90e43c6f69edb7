"""The interface that gathers what was found in a series for the log and the report."""

import json
from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class _CollectFindingsInputSpec(BaseInterfaceInputSpec):
    series = traits.Str(mandatory=True, desc='name of the series')
    facts = traits.Dict(mandatory=True, desc='label -> value, for the report')
    layout_notes = traits.List(traits.Str, desc='what was noticed when the dataset was read')
    conditioning = File(exists=True, mandatory=True, desc='findings of the phase conditioning (JSON)')
    refinement = File(exists=True, desc='findings of the alignment of the deep grey matter (JSON)')
    reference = File(exists=True, desc='how susceptibility was referenced (JSON)')
    reference_asked = traits.Str(mandatory=True, desc='region asked for, as ReferenceRegion names it')


class _CollectFindingsOutputSpec(TraitedSpec):
    findings = File(exists=True, desc='all findings (JSON)')


class CollectFindings(SimpleInterface):
    """Gather the findings of all steps of a series in one file."""

    input_spec, output_spec = _CollectFindingsInputSpec, _CollectFindingsOutputSpec

    def _run_interface(self, runtime):
        findings = [{'what': 'Dataset', 'found': note} for note in self.inputs.layout_notes]
        findings += json.loads(Path(self.inputs.conditioning).read_text())['findings']
        if isdefined(self.inputs.refinement):
            findings += json.loads(Path(self.inputs.refinement).read_text())['findings']
        if isdefined(self.inputs.reference):
            note = json.loads(Path(self.inputs.reference).read_text())
            fell_back = note['ReferenceRegion'].lower() not in ('none', self.inputs.reference_asked)
            findings.append(
                {
                    'what': 'Reference',
                    'found': note['ReferenceDescription'],
                    'level': 'warning' if fell_back else 'info',
                }
            )
        path = Path(runtime.cwd) / 'findings.json'
        path.write_text(
            json.dumps(
                {'series': self.inputs.series, 'findings': findings, 'facts': self.inputs.facts}, indent=2
            )
        )
        self._results['findings'] = str(path)
        return runtime
