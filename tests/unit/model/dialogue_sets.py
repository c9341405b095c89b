"""Small sets of dialogues with a known structure."""

from __future__ import annotations

import numpy as np

from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues

CLASSES = 4


def dialogues_of(
    seed: int = 0, *, sizes: tuple[int, int, int] = (8, 6, 4), speech_factor: float = 1.0
) -> EmbeddedDialogues:
    """Dialogues of six turns: text (6 columns) tells all classes apart, speech (4 columns) two pairs of them.

    Args:
        seed: of the draws.
        sizes: dialogues in train, dev and test.
        speech_factor: the unit of the speech columns.
    """
    draw = np.random.default_rng(seed)
    centres = {"speech": draw.normal(size=(CLASSES, 4)), "text": 1.5 * draw.normal(size=(CLASSES, 6))}
    centres["speech"][1], centres["speech"][3] = centres["speech"][0], centres["speech"][2]
    dialogues: dict[str, list[EmbeddedDialogue]] = {}
    rows: dict[str, list[np.ndarray]] = {"speech": [], "text": []}
    start = 0
    for split, count in zip(("train", "dev", "test"), sizes, strict=True):
        for index in range(count):
            labels = draw.integers(CLASSES, size=6)
            for name, centre in centres.items():
                factor = speech_factor if name == "speech" else 1.0
                noisy = centre[labels] + 1.5 * draw.normal(size=(6, centre.shape[1]))
                rows[name].append((factor * noisy).astype(np.float32))
            dialogues.setdefault(split, []).append(EmbeddedDialogue(f"{split}{index}", slice(start, start + 6), labels))
            start += 6
    return EmbeddedDialogues(dialogues, {name: np.concatenate(parts) for name, parts in rows.items()}, list("abcd"))
