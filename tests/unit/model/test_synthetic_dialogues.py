"""The synthetic sets of `mistere bench mixture_quality` have the structure that they declare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mistere.model.embeddings import EmbeddedDialogues
from pipelines.profiles import load_profile
from tests.bench.mixture_quality import beside_bigru
from tests.bench.reference.synthetic_dialogues import CLASSES, SAME_MEAN, SETS, generate


def _rows(data: EmbeddedDialogues, modality: str, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    dialogues = data.split(split)  # type: ignore[arg-type]
    return np.concatenate([data.read(one)[modality] for one in dialogues]), np.concatenate(
        [one.labels for one in dialogues]
    )


def _nearest_mean(data: EmbeddedDialogues, modalities: list[str]) -> np.ndarray:
    """Confusion rates ``[C, C]`` on test of the nearest class mean of train, without context."""
    rows = {split: np.hstack([_rows(data, name, split)[0] for name in modalities]) for split in ("train", "test")}
    labels = {split: _rows(data, modalities[0], split)[1] for split in ("train", "test")}
    means = np.stack([rows["train"][labels["train"] == one].mean(0) for one in range(CLASSES)])
    chosen = ((rows["test"][:, None] - means) ** 2).sum(-1).argmin(1)
    counts = np.zeros((CLASSES, CLASSES))
    np.add.at(counts, (labels["test"], chosen), 1)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, same, other = (generate(SETS["small"], seed) for seed in (0, 0, 1))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_labels_persist_as_declared() -> None:
    labels = [one.labels for one in generate(SETS["large"]).split("train")]
    repeats = np.concatenate([one[1:] == one[:-1] for one in labels])
    persistence = SETS["large"].persistence
    assert repeats.mean() == pytest.approx(persistence + (1 - persistence) / CLASSES, abs=0.02)
    assert 9000 < sum(map(len, labels)) < 11000


def test_each_modality_confuses_its_pairs_and_both_together_do_not() -> None:
    data = generate(replace(SETS["clean"], widths={"speech": 20, "text": 20}, dialogues=(300, 5, 300)))
    both = _nearest_mean(data, ["speech", "text"])
    for modality, pairs in SAME_MEAN.items():
        alone = _nearest_mean(data, [modality])
        for first, second in pairs:
            inside = alone[[first, second]][:, [first, second]].sum(1).mean()
            right = (alone[first, first] + alone[second, second]) / 2
            assert right == pytest.approx(inside / 2, abs=0.06)  # no better than a coin within the pair
        assert np.diag(both).mean() > np.diag(alone).mean() + 0.1


def test_noise_weak_modality_and_wild_scales_are_as_declared() -> None:
    many = {name: replace(SETS[name], dialogues=(400, 5, 400)) for name in ("clean", "noise", "weak_third")}
    clean, noisy = (np.diag(_nearest_mean(generate(many[name]), ["speech"])).mean() for name in ("clean", "noise"))
    assert clean > noisy + 0.05
    weak = np.diag(_nearest_mean(generate(many["weak_third"]), ["video"])).mean()
    assert 1 / CLASSES - 0.05 < weak < 1 / CLASSES + 0.1
    wild = generate(SETS["wild"])
    speech, text = _rows(wild, "speech")[0], _rows(wild, "text")[0]
    assert np.abs(speech[:, 0]).max() > 300 and np.ptp(speech[:, 1]) == 0 and np.ptp(text[:, :3]) == 0
    assert np.abs(text).mean() < 0.1


def test_the_hard_set_has_absent_modalities_rare_classes_and_shifted_dialogues() -> None:
    data = generate(SETS["hard"])
    train = data.split("train")
    for name, share in SETS["hard"].absent_turns.items():
        absent = np.isnan(_rows(data, name)[0])
        assert (absent.any(1) == absent.all(1)).all() and absent[:, 0].mean() == pytest.approx(share, abs=0.03)
    counts = np.bincount(np.concatenate([one.labels for one in train]), minlength=CLASSES)
    assert counts[0] > 4 * counts[-1] > 0
    variances = []
    for made_of in (SETS["hard"], replace(SETS["hard"], dialogue_shift=0.0)):
        shown = generate(made_of)
        variances.append(
            np.var([np.nanmean(shown.read(one)["speech"], axis=0) for one in shown.split("train")], axis=0).mean()
        )
    assert variances[0] > 1.5 * variances[1]


def test_an_expert_is_compared_with_the_bigru_where_its_modality_is_present() -> None:
    data = generate(SETS["hard"])
    rows, true = _rows(data, "speech", "test")
    no_answer = np.where(np.isnan(rows).any(1), (true + 1) % CLASSES, true)  # right wherever there is speech
    compared = beside_bigru(data, load_profile("tiny"), "speech", [no_answer], [np.zeros_like(true)])
    assert compared["expert"] == [1.0, 1.0, 1.0] and compared["bigru"][0] < 0.5
    assert compared["expert_minus_bigru"][0] == pytest.approx(1 - compared["bigru"][0], abs=2e-4)
