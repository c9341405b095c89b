"""Losses, averaged over real utterances; there is no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence of a student's softened probabilities from a teacher's (Hinton et al., arXiv 1503.02531).

    The square of the temperature keeps the size of the gradients.

    Args:
        logits: the student's, ``[N, C]``.
        teacher: the teacher's logits, or the logarithms of its probabilities, ``[N, C]``.
        temperature: divides both.
    """
    log_q = functional.log_softmax(logits / temperature, dim=-1)
    log_p = functional.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


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
    classes, label = labels.unique(return_inverse=True)
    members = functional.one_hot(label, len(classes)).to(vectors.dtype)
    count = members.sum(0)[label] - 1
    # The sum of the similarities to all positives is one product with the sum of the class's vectors.
    to_class = (vectors * (members.T @ vectors)[label]).sum(1) - vectors.square().sum(1)
    total = _similarity_to_others(vectors, temperature)
    per_anchor = (total * count - to_class / temperature) / count.clamp(min=1)
    anchors = (count > 0).to(per_anchor.dtype)
    return (per_anchor * anchors).sum() / anchors.sum().clamp(min=1)


_SHARPEST = 0.05
"""Below this temperature the exponentials of unit vectors' similarities, which span exp(−2/τ) to 1, need a maximum for each row."""


def _similarity_to_others(vectors: Tensor, temperature: float) -> Tensor:
    """``log Σ_{a ≠ i} exp(z_i·z_a / τ)`` of unit vectors ``[M, D]``: ``[M]``."""
    if temperature >= _SHARPEST:
        return _SimilarityToOthers.apply(vectors, temperature)  # type: ignore[no-any-return]
    similarity = vectors @ vectors.T / temperature
    return similarity.fill_diagonal_(float("-inf")).logsumexp(dim=1)


class _SimilarityToOthers(torch.autograd.Function):
    """The same with half of the passes over ``[M, M]``, as the similarities are symmetric and at most 1.

    It saves a twelfth of a training step of a small mixture (``mistere bench training_speed --small 64``).
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, temperature: float) -> Tensor:
        """``[M, D]`` to ``[M]``."""
        scale = 1 / temperature
        powers = torch.addmm(vectors.new_full((1, 1), -1), vectors, vectors.T, beta=scale, alpha=scale).exp_()
        powers.fill_diagonal_(0)
        sums = powers.sum(1)
        ctx.save_for_backward(vectors, powers, sums)
        ctx.scale = scale
        return sums.log() + scale

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        """Gradient of the vectors."""
        vectors, powers, sums = ctx.saved_tensors
        factor = upstream[0] / sums
        pairs = (factor[:, None] + factor[None, :]).mul_(powers)
        return (pairs @ vectors).mul_(ctx.scale), None


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
