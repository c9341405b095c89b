"""Training the mixture on the answers of another one, its teacher (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mistere.model.dialogue_prediction import DialoguePrediction
from mistere.model.embeddings import EmbeddedDialogue
from mistere.model.losses import distillation_loss
from mistere.model.mixture.mixture import MixtureOfExperts, MixtureOutput

_TINY = 1e-9


@dataclass(frozen=True)
class MixtureTeacher:
    """A teacher's answers for the dialogues of train, and how much they count.

    Attributes:
        model: the teacher; a student with the same sizes starts from its weights.
        answers: by dialogue, the calibrated probabilities, the experts' probabilities and the expert weights of its turns.
        temperature: divides the logits of both.
        share: weight of the divergence from the probabilities of mixture and experts; the loss on the labels has the rest.
        weights_weight: weight of the divergence from the expert weights.
    """

    model: MixtureOfExperts
    answers: Mapping[str, DialoguePrediction]
    temperature: float
    share: float
    weights_weight: float

    def start(self, student: MixtureOfExperts) -> None:
        """Copy the weights that have the same name and shape, except those of the gate and of the input's standardisation."""
        own = student.state_dict()
        copied = {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if not name.startswith(("gate.", "scaling.")) and name in own and own[name].shape == tensor.shape
        }
        student.load_state_dict({**own, **copied})

    def loss(self, labels_loss: Tensor, dialogues: Sequence[EmbeddedDialogue], output: MixtureOutput) -> Tensor:
        """The loss of a batch.

        Args:
            labels_loss: the loss on the labels.
            dialogues: of the batch, in the order of its rows.
            output: the student's.
        """
        answers = [self.answers[dialogue.dialogue_id] for dialogue in dialogues]
        device = output.logits.device
        mixture = _log([one.probabilities for one in answers], device)
        experts = _log([one.expert_probabilities for one in answers], device)
        divergence = distillation_loss(output.logits, mixture, self.temperature)
        for index in range(output.expert_logits.shape[1]):
            rows = output.expert_present[:, index]
            if rows.any():
                divergence = divergence + distillation_loss(
                    output.expert_logits[rows, index], experts[rows, index], self.temperature
                )
        total = (1 - self.share) * labels_loss + self.share * divergence
        if self.weights_weight:
            weights = torch.from_numpy(np.concatenate([one.expert_weights for one in answers])).to(device)
            own = output.weights.clamp(min=_TINY)
            present = weights * output.expert_present  # modality dropout leaves out experts that the teacher had
            present = present / present.sum(-1, keepdim=True).clamp(min=_TINY)
            distance = (present * (present.clamp(min=_TINY).log() - own.log())).sum(-1).mean()
            total = total + self.weights_weight * distance
        return total


def _log(probabilities: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Logarithms of the rows of several dialogues."""
    return torch.from_numpy(np.concatenate(probabilities)).to(device).clamp(min=_TINY).log()
