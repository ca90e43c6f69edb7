"""Maps of plug-ins beside those of classical methods."""

from bids_qsm.interfaces.step import Data, Step, image, inputs, mask, outputs, record, table
from bids_qsm.plugins.compare import compare, compare_regions, compare_residuals, findings_of_regions


class CompareMaps(Step):
    """Compare the susceptibility of a plug-in with that of the classical methods."""

    input_spec = inputs(
        chi=image('susceptibility of the plug-in (ppm)'),
        classical=image('susceptibility of the classical methods (ppm)'),
        mask=mask('where the plug-in gives it'),
        classical_mask=mask('where the classical methods give it'),
        own=image('susceptibility of the plug-in as it was found, without a reference (ppm)'),
        classical_own=image('that of the classical methods'),
        field=image('local field that the plug-in, or for it the classical method, found (ppm)'),
        classical_field=image('local field of the classical methods (ppm)'),
        note=record('how susceptibility was referenced'),
    )
    output_spec = outputs(
        departure=image('plug-in less classical (ppm)'), note=record('the same, with the comparison')
    )

    def compute(self, data: Data):
        both = data['mask'] & data['classical_mask']
        found = {
            **compare(data['chi'], data['classical'], both),
            **compare_residuals(
                (data['own'], data['field'], data['mask']),
                (data['classical_own'], data['classical_field'], data['classical_mask']),
                data['grid'],
            ),
        }
        return (data['chi'] - data['classical']) * both, {**data['note'], 'ClassicalComparison': found}


class CompareRegions(Step):
    """Compare the regional means of both maps."""

    input_spec = inputs(
        chi=image('susceptibility of the plug-in (ppm)'),
        classical=image('susceptibility of the classical methods (ppm)'),
        mask=mask('where the plug-in gives it'),
        dseg=image('labels of regions'),
        labels=table('index and region (or name)'),
    )
    output_spec = outputs(notes=record('findings'))

    def compute(self, data: Data):
        both = data['mask'] & (data['classical'] != 0)
        regions = compare_regions(data['chi'], data['classical'], both, data['dseg'], data['labels'])
        return {'findings': findings_of_regions(regions)}
