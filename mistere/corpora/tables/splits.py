"""Assign whole dialogues to splits by a seed, for a table without a column ``split``.

The splits get similar shares of every label and modality, and disjoint speakers if possible.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS, Split

TEXT: Final = ("modality", "text")
AUDIO: Final = ("modality", "audio")
_SWAPS_PER_GROUP, _MOST_SWAPS = 40, 40_000
Kind = tuple[str, str]
"""What utterances are counted by: ``("label", NAME)``, :data:`TEXT` or :data:`AUDIO`."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What matters of a dialogue for its assignment: its speakers, and its utterances of each kind."""

    speakers: frozenset[str]
    counts: Mapping[Kind, int]


@dataclass(frozen=True, slots=True)
class Assignment:
    """The split of every dialogue.

    Attributes:
        splits: the split by dialogue.
        by_speaker: whether the splits have disjoint speakers.
        lacking: kinds that validation demands in a split that has none: ``(split, kind)``.
    """

    splits: dict[str, Split]
    by_speaker: bool
    lacking: list[tuple[Split, Kind]] = field(default_factory=list)


def check_shares(shares: Sequence[float]) -> None:
    """Check the shares of train, dev and test.

    Raises:
        UsageError: they are not three numbers from 0 to 1 with a sum of 1, or the share of train is 0.
    """
    valid = len(shares) == 3 and all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) < 1e-6
    if not valid or shares[0] == 0:
        raise UsageError(
            f"--splits {','.join(f'{share:g}' for share in shares)}: three shares (train, dev, test) with a sum of 1 are expected, such as "
            "0.8,0.1,0.1."
        )


def assign(
    dialogues: Mapping[str, Dialogue],
    shares: Sequence[float],
    seed: int,
    settled: Mapping[str, frozenset[Split]],
) -> Assignment:
    """Assign every dialogue to a split.

    Dialogues that share speakers, directly or through others, form a group. If there are enough groups, each goes to one split, so
    that no speaker is in two splits; otherwise, or if validation would reject those splits, dialogues are assigned one by one.

    Args:
        dialogues: the dialogues without a split.
        shares: shares of train, dev and test.
        seed: seed of the order of the assignment.
        settled: the splits of speakers that are assigned already.
    """
    apart = None
    if any(dialogue.speakers for dialogue in dialogues.values()):
        splits = _by_group(_groups(dialogues), dialogues, shares, seed, settled)
        if splits is not None:
            apart = Assignment(splits, True, _lacking(splits, dialogues, shares))
            if settled or not apart.lacking:
                return apart
    splits = _Deal([[name] for name in dialogues], dialogues, shares, seed).splits()
    alone = Assignment(splits, False, _lacking(splits, dialogues, shares))
    return apart if apart is not None and len(alone.lacking) >= len(apart.lacking) else alone


def _by_group(
    groups: list[list[str]],
    dialogues: Mapping[str, Dialogue],
    shares: Sequence[float],
    seed: int,
    settled: Mapping[str, frozenset[Split]],
) -> dict[str, Split] | None:
    """Splits by group; None if a group has speakers in two splits already, or a split would get less than half its share."""
    assigned: dict[str, Split] = {}
    free = []
    for group in groups:
        bound = {split for name in group for speaker in dialogues[name].speakers for split in settled.get(speaker, ())}
        if len(bound) > 1:
            return None
        if bound:
            assigned.update(dict.fromkeys(group, bound.pop()))
        else:
            free.append(group)
    assigned.update(_Deal(free, dialogues, shares, seed).splits())
    if not settled:
        for split, share in zip(SPLITS, shares, strict=True):
            if share and sum(value == split for value in assigned.values()) < max(1.0, share * len(dialogues) / 2):
                return None
    return assigned


def _groups(dialogues: Mapping[str, Dialogue]) -> list[list[str]]:
    """The connected components of dialogues that share speakers."""
    leader = {name: name for name in dialogues}

    def root(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    first: dict[str, str] = {}
    for name, dialogue in dialogues.items():
        for speaker in sorted(dialogue.speakers):
            leader[root(name)] = root(first.setdefault(speaker, name))
    groups: dict[str, list[str]] = {}
    for name in dialogues:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _needed(split: Split, kind: Kind) -> bool:
    """Whether validation rejects a split without this kind: a label in train and test, a modality in every split."""
    return kind[0] == "modality" or split != "dev"


def _lacking(
    splits: Mapping[str, Split], dialogues: Mapping[str, Dialogue], shares: Sequence[float]
) -> list[tuple[Split, Kind]]:
    present: dict[Split, set[Kind]] = {split: set() for split, share in zip(SPLITS, shares, strict=True) if share}
    for name, split in splits.items():
        present[split].update(dialogues[name].counts)
    kinds = sorted(set().union(*present.values()))
    return [(split, kind) for split in present for kind in kinds if kind not in present[split] and _needed(split, kind)]


class _Deal:
    """One assignment of groups of dialogues.

    First test, then dev get groups with the kinds that they need, as few as possible and, unless the split would stay empty, never
    the last one of train. All other
    groups, those with the rarest kind first and equal ones by hash, go where they bring the counts of all kinds closest to the
    split's share of them (a chi-square distance), while the split has not got its share of dialogues. At last, pairs of groups
    are swapped where that brings the counts closer.
    """

    def __init__(
        self, groups: list[list[str]], dialogues: Mapping[str, Dialogue], shares: Sequence[float], seed: int
    ) -> None:
        self._shares = {split: share for split, share in zip(SPLITS, shares, strict=True) if share}
        self._counts = [sum((Counter(dialogues[name].counts) for name in group), Counter[Kind]()) for group in groups]
        self._groups, self._seed = groups, seed
        self._total = sum(self._counts, Counter[Kind]())
        self._left = Counter(kind for counts in self._counts for kind in counts)  # groups without a split, by kind
        hashes = [_hash(min(group), seed) for group in groups]
        rarest = [min((self._left[kind] for kind in counts), default=0) for counts in self._counts]
        self._order = sorted(range(len(groups)), key=lambda one: (-len(groups[one]), rarest[one], hashes[one]))
        self._lacking = self._quotas(sum(map(len, groups)))
        self._assigned: dict[int, Split] = {}
        self._held: dict[Split, Counter[Kind]] = {split: Counter() for split in self._shares}

    def splits(self) -> dict[str, Split]:
        """The split of each dialogue."""
        for split in reversed(SPLITS[1:]):
            if split in self._shares:
                self._cover(split)
        for one in self._order:
            if one not in self._assigned:
                self._give(one, self._best(one))
        self._exchange(random.Random(self._seed))  # noqa: S311
        return {name: split for one, split in self._assigned.items() for name in self._groups[one]}

    def _quotas(self, total: int) -> dict[Split, float]:
        """Dialogues per split; if there are few, no split stays empty."""
        lacking = {split: share * total for split, share in self._shares.items()}
        if total >= len(lacking):
            lacking.update({split: max(lacking[split], 1.0) for split in lacking if split != "train"})
            lacking["train"] = total - sum(lack for split, lack in lacking.items() if split != "train")
        return lacking

    def _cover(self, split: Split) -> None:
        """Give a split groups with the kinds that it needs, each time the group with most of them."""
        quota = self._lacking[split]
        while self._lacking[split] > 0:
            wanted = {
                kind
                for kind, left in self._left.items()
                if left > 1 and not self._held[split][kind] and _needed(split, kind)
            }
            room = self._lacking[split] + quota / 2
            best, most = -1, 0
            for one in self._order if wanted else ():
                if one in self._assigned or len(self._groups[one]) > room or self._is_last_of_train(one):
                    continue
                gain = len(wanted & self._counts[one].keys())
                if gain > most:
                    best, most = one, gain
            if best < 0:
                break
            self._give(best, split)
        waiting = [one for one in self._order if one not in self._assigned]
        if self._lacking[split] >= 1 and not self._held[split] and len(waiting) > 1:
            self._give(min(waiting, key=lambda one: (self._is_last_of_train(one), len(self._groups[one]))), split)

    def _is_last_of_train(self, one: int) -> bool:
        """Whether train would stay without a kind if it did not get this group."""
        return any(self._left[kind] == 1 and not self._held["train"][kind] for kind in self._counts[one])

    def _best(self, one: int) -> Split:
        if self._is_last_of_train(one):
            return "train"
        size = len(self._groups[one])
        open_splits = [split for split in self._shares if self._lacking[split] >= size - 0.5]
        if not open_splits:
            return max(self._shares, key=lambda split: self._lacking[split])
        return min(open_splits, key=lambda split: self._cost(one, split))

    def _cost(self, one: int, split: Split) -> float:
        """The change of the chi-square distance if a group goes to a split."""
        share, held = self._shares[split], self._held[split]
        return sum(
            (2 * count * (held[kind] - share * self._total[kind]) + count * count) / (share * self._total[kind])
            for kind, count in self._counts[one].items()
        )

    def _exchange(self, generator: random.Random) -> None:
        """Swap groups of equal size between splits where it brings the counts closer; long dialogues stay in train otherwise."""
        by_size: dict[int, list[int]] = {}
        for one in self._order:
            by_size.setdefault(len(self._groups[one]), []).append(one)
        for same in by_size.values():
            for _ in range(min(_MOST_SWAPS, _SWAPS_PER_GROUP * len(same))):
                one, other = generator.choice(same), generator.choice(same)
                if self._assigned[one] != self._assigned[other] and self._gains(one, other):
                    self._swap(one, other)

    def _gains(self, one: int, other: int) -> bool:
        """Whether a swap brings the counts closer, and takes no kind from a split that needs it."""
        change = 0.0
        pairs = ((one, other, self._assigned[one]), (other, one, self._assigned[other]))
        for leaving, coming, split in pairs:
            held, share = self._held[split], self._shares[split]
            for kind in self._counts[leaving].keys() | self._counts[coming].keys():
                step = self._counts[coming][kind] - self._counts[leaving][kind]
                if _needed(split, kind) and held[kind] and held[kind] + step == 0:
                    return False
                whole = share * self._total[kind]
                change += (2 * step * (held[kind] - whole) + step * step) / whole
        return change < -1e-9

    def _swap(self, one: int, other: int) -> None:
        for leaving, coming in ((one, other), (other, one)):
            held = self._held[self._assigned[leaving]]
            held.subtract(self._counts[leaving])
            held.update(self._counts[coming])
        self._assigned[one], self._assigned[other] = self._assigned[other], self._assigned[one]

    def _give(self, one: int, split: Split) -> None:
        self._assigned[one] = split
        self._lacking[split] -= len(self._groups[one])
        self._left.subtract(self._counts[one].keys())
        self._held[split].update(self._counts[one])


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
