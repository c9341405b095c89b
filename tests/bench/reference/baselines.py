"""A two-layer bidirectional GRU over a dialogue in plain PyTorch: the baseline of `mistere bench mixture_quality`.

Written independently of the mixture and trained with the same care: inputs standardised on train and clipped, dropout,
weight decay, clipped gradients, and the epoch chosen on dev by weighted F1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogue, EmbeddedDialogues

_HIDDEN, _DROPOUT, _RATE, _DECAY, _BATCH, _EPOCHS, _PATIENCE, _CLIP = 64, 0.4, 1e-3, 1e-4, 16, 60, 10, 5.0
_IGNORED = -100
"""Class of padding and of turns without a label."""


class BiGRU(nn.Module):
    """Two bidirectional GRU layers and a linear layer: ``[B, T, D]`` to logits ``[B, T, C]``."""

    def __init__(self, width: int, classes: int, hidden: int = _HIDDEN) -> None:
        super().__init__()
        self.dropout = nn.Dropout(_DROPOUT)
        self.recurrence = nn.GRU(width, hidden, num_layers=2, bidirectional=True, batch_first=True, dropout=_DROPOUT)
        self.output = nn.Linear(2 * hidden, classes)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Logits of every turn; padded turns are never read."""
        packed = pack_padded_sequence(self.dropout(rows), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrence(packed)[0], batch_first=True)
        logits: Tensor = self.output(self.dropout(states))
        return logits


def bigru(data: EmbeddedDialogues, modalities: Sequence[str], seed: int) -> np.ndarray:
    """Train on train, choose the epoch on dev, predict test.

    Returns:
        Probabilities ``[N, C]`` of the test turns that have a label, dialogue by dialogue.
    """
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    train, dev, test = _standardised(data, modalities)
    labels = labels_of(data.split("train"))
    dev_labels = np.concatenate([dialogue.labels for dialogue in data.split("dev")])
    known = dev_labels != UNLABELLED
    model = BiGRU(train[0].shape[1], len(data.labels))
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, best_score, best_epoch = copy.deepcopy(model.state_dict()), -1.0, 0
    for epoch in range(1, _EPOCHS + 1):
        train_epoch(model, optimizer, train, labels, draw, _BATCH)
        classes = predict(model, dev).argmax(1)[known]
        score = float(weighted_f1(confusion(dev_labels[known], classes, len(data.labels))))
        if score > best_score:
            best, best_score, best_epoch = copy.deepcopy(model.state_dict()), score, epoch
        if epoch - best_epoch >= _PATIENCE:
            break
    model.load_state_dict(best)
    return predict(model, test)[np.concatenate([dialogue.labelled for dialogue in data.split("test")])]


def labels_of(dialogues: Sequence[EmbeddedDialogue]) -> list[Tensor]:
    """Classes of each dialogue's turns; :data:`_IGNORED` for a turn without a label."""
    return [
        torch.from_numpy(np.where(dialogue.labelled, dialogue.labels, _IGNORED).astype(np.int64))
        for dialogue in dialogues
    ]


def train_epoch(
    model: BiGRU,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Tensor],
    labels: Sequence[Tensor],
    draw: np.random.Generator,
    batch_size: int,
) -> None:
    """Train on one pass over the dialogues, in batches of about ``batch_size`` in random order."""
    model.train()
    for batch in np.array_split(draw.permutation(len(rows)), -(-len(rows) // batch_size)):
        lengths = torch.tensor([len(rows[index]) for index in batch])
        logits = model(pad_sequence([rows[index] for index in batch], batch_first=True), lengths)
        target = pad_sequence([labels[index] for index in batch], batch_first=True, padding_value=_IGNORED)
        if (target == _IGNORED).all():
            continue  # the mean over no turn is not a number
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.inference_mode()
def predict(model: BiGRU, dialogues: Sequence[Tensor]) -> np.ndarray:
    """Probabilities ``[N, C]``, dialogue by dialogue."""
    model.eval()
    lengths = [len(rows) for rows in dialogues]
    probabilities = model(pad_sequence(list(dialogues), batch_first=True), torch.tensor(lengths)).softmax(-1).numpy()
    return np.concatenate([rows[:length] for rows, length in zip(probabilities, lengths, strict=True)])


def _standardised(data: EmbeddedDialogues, modalities: Sequence[str]) -> list[list[Tensor]]:
    """Train, dev and test: rows of each dialogue, standardised on train and clipped; absent rows are 0."""

    def rows(dialogue: EmbeddedDialogue) -> np.ndarray:
        read = data.read(dialogue)
        return np.concatenate([read[name] for name in modalities], axis=1).astype(np.float64)

    train = np.concatenate([rows(dialogue) for dialogue in data.split("train")])
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    deviation[deviation < 1e-8] = np.inf  # a constant column becomes 0

    def scaled(dialogue: EmbeddedDialogue) -> Tensor:
        values = np.nan_to_num(np.clip((rows(dialogue) - mean) / deviation, -_CLIP, _CLIP), nan=0.0)
        return torch.from_numpy(values.astype(np.float32))

    return [[scaled(one) for one in split] for split in (data.split("train"), data.split("dev"), data.split("test"))]
