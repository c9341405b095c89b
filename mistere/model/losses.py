"""Losses, averaged over real utterances; there is no padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """Focal loss (Lin et al., arXiv 1708.02002): mean of ``(1 − p)^γ · −log p`` of the true class; γ = 0 is cross-entropy.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
        gamma: exponent that discounts easy utterances.
        class_weights: weight of an utterance by its class ``[C]``. The sum is divided by N, so the weights should average
            1 over the training set.
    """
    log_p = functional.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)
    losses = -log_p
    if gamma:
        doubt = (1 - log_p.exp()).clamp(
            min=torch.finfo(log_p.dtype).eps
        )  # the gradient of the power is infinite at 0 for γ < 1
        losses = losses * doubt**gamma
    if class_weights is not None:
        losses = losses * class_weights[labels]
    return losses.mean()


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Class weights inverse to the counts, with mean 1 over a set with these counts; 0 for a class without examples."""
    present = sum(1 for count in counts if count)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def supervised_contrastive_loss(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al., arXiv 2004.11362) over one set of vectors.

    Positives are the other vectors of the same label; an anchor without positives is ignored. The value does not depend on
    the order of the vectors.

    Args:
        vectors: ``[M, D]``; they are normalised here.
        labels: ``[M]``.
        temperature: τ.
    """
    if len(vectors) < 2:
        return vectors.sum() * 0
    vectors = functional.normalize(vectors, dim=-1)
    similarity = vectors @ vectors.T / temperature
    similarity.fill_diagonal_(float("-inf"))  # a vector is not compared with itself
    classes, label = labels.unique(return_inverse=True)
    members = functional.one_hot(label, len(classes)).to(vectors.dtype)
    count = members.sum(0)[label] - 1
    # The sum of the similarities to all positives is one product with the sum of the class's vectors.
    to_class = (vectors * (members.T @ vectors)[label]).sum(1) - vectors.square().sum(1)
    per_anchor = (similarity.logsumexp(dim=1) * count - to_class / temperature) / count.clamp(min=1)
    anchors = (count > 0).to(per_anchor.dtype)
    return (per_anchor * anchors).sum() / anchors.sum().clamp(min=1)


def expert_consistency_loss(expert_logits: Tensor, present: Tensor) -> Tensor:
    """Mean pairwise symmetric KL divergence between the present experts' output distributions.

    Args:
        expert_logits: ``[N, E, C]``.
        present: ``[N, E]``, False where an expert has no input.

    Returns:
        Mean over utterances and pairs of present experts; 0 if there is no pair.
    """
    log_p = functional.log_softmax(expert_logits, dim=-1)
    p = log_p.exp()
    total = expert_logits.new_zeros(())
    pairs = expert_logits.new_zeros(())
    experts = expert_logits.shape[1]
    for one in range(experts):
        for other in range(one + 1, experts):
            both = (present[:, one] & present[:, other]).to(p.dtype)
            divergence = ((p[:, one] - p[:, other]) * (log_p[:, one] - log_p[:, other])).sum(-1)
            total = total + (divergence * both).sum()
            pairs = pairs + both.sum()
    return total / pairs.clamp(min=1)
