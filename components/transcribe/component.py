"""The KFP component ``transcribe``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def transcribe(
    run: dict, data: dict, utterances: Input[UtteranceSetArtifact], transcribed: Output[UtteranceSetArtifact]
):
    """Transcribe the utterances that have audio and no text.

    Args:
        run: the run's context.
        data: the ``data`` section, whose part ``transcription`` names the model.
        utterances: the dataset.
        transcribed: the dataset with transcripts.
    """
    from components.transcribe.run import STAGE
    from mistere.engine.execution import execute

    execute(STAGE, run, data, inputs={"utterances": utterances.path}, outputs={"transcribed": transcribed.path})
