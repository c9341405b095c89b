"""The KFP component ``distill_mixture``, for the modalities of a run."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EmbeddingSetArtifact, MoEModelArtifact
from mistere.engine.modality_template import for_modalities
from mistere.kubernetes.images import image


@for_modalities(dsl.component(base_image=image("train"), install_kfp_package=False))
def distill_mixture(
    run: dict,
    distillation: dict,
    teacher: Input[MoEModelArtifact],
    MODALITY_teacher_vectors: Input[EmbeddingSetArtifact],
    MODALITY_vectors: Input[EmbeddingSetArtifact],
    model: Output[MoEModelArtifact],
):
    """Train a mixture on the answers of another one.

    Args:
        run: the run's context.
        distillation: the ``distillation`` section.
        teacher: the mixture to learn from.
        MODALITY_teacher_vectors: the vectors that it takes, or their absence.
        MODALITY_vectors: the student's vectors of this modality, or their absence.
        model: the trained mixture.
    """
    from components.distill_mixture.run import STAGE
    from mistere.engine.execution import execute

    teacher_vectors = {
        "MODALITY": MODALITY_teacher_vectors.path,
    }
    vectors = {
        "MODALITY": MODALITY_vectors.path,
    }
    execute(
        STAGE,
        run,
        distillation,
        inputs={"teacher": teacher.path, "teacher_vectors": teacher_vectors, "vectors": vectors},
        outputs={"model": model.path},
    )
