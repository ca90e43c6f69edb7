"""The mean of the frames of a BOLD run."""

from nipype.interfaces.base import File, InputMultiObject, traits

from bids_qsm.anatomy.frames import mean_of_frames
from bids_qsm.interfaces.io import Frames
from bids_qsm.interfaces.step import Data, Step, image, inputs, outputs, record


def _runs(desc: str):
    return InputMultiObject(File(exists=True), mandatory=True, desc=desc)


class AverageFrames(Step):
    """Average the frames of a run as complex numbers, one in memory at a time."""

    input_spec = inputs(
        magnitude=_runs('magnitude by echo, frames last'),
        phase=_runs('phase by echo, as stored, frames last'),
        scaling=traits.Str('auto', usedefault=True, desc="'auto', 'radians', 'degrees' or 'LOW,HIGH'"),
    )
    output_spec = outputs(
        magnitude=image('magnitude of the mean, echoes last'),
        phase=image('phase of the mean (rad), echoes last'),
        findings=record('what was found and done'),
    )

    def compute(self, data: Data):
        magnitude, phase = ([Frames(path) for path in data[part]] for part in ('magnitude', 'phase'))
        mean, angle, findings = mean_of_frames(
            lambda t: ([echo[t] for echo in magnitude], [echo[t] for echo in phase]),
            len(magnitude[0]),
            magnitude[0].affine,
            scaling=self.inputs.scaling,
        )
        return mean, angle, {'findings': findings}
