"""Assign whole dialogues to splits by a seed, with disjoint speakers if possible, for a table without a column ``split``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS, Split


@dataclass(frozen=True, slots=True)
class Assignment:
    """The split of every dialogue, and whether the splits have disjoint speakers."""

    splits: dict[str, Split]
    by_speaker: bool


def check_shares(shares: Sequence[float]) -> None:
    """Check the shares of train, dev and test.

    Raises:
        UsageError: they are not three numbers from 0 to 1 with a sum of 1, or the share of train is 0.
    """
    valid = len(shares) == 3 and all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) < 1e-6
    if not valid or shares[0] == 0:
        raise UsageError(
            f"splits is {', '.join(map(str, shares))}: three shares (train, dev, test) with a sum of 1 are expected, such as "
            "0.8, 0.1, 0.1."
        )


def assign(
    dialogues: Mapping[str, frozenset[str]],
    shares: Sequence[float],
    seed: int,
    settled: Mapping[str, frozenset[Split]],
) -> Assignment:
    """Assign every dialogue to a split.

    Dialogues that share speakers, directly or through others, form a group. If there are enough groups, each goes to one split, so
    that no speaker is in two splits; otherwise dialogues are assigned one by one.

    Args:
        dialogues: the speakers of each dialogue without a split; empty if unknown.
        shares: shares of train, dev and test.
        seed: seed of the order of the assignment.
        settled: the splits of speakers that are assigned already.
    """
    if any(dialogues.values()):
        groups = _groups(dialogues)
        splits = _by_group(groups, dialogues, shares, seed, settled)
        if splits is not None:
            return Assignment(splits, by_speaker=True)
    alone = [[dialogue] for dialogue in dialogues]
    return Assignment(_deal(alone, shares, seed), by_speaker=False)


def _by_group(
    groups: list[list[str]],
    dialogues: Mapping[str, frozenset[str]],
    shares: Sequence[float],
    seed: int,
    settled: Mapping[str, frozenset[Split]],
) -> dict[str, Split] | None:
    """Splits by group; None if a group has speakers in two splits already, or a split would get less than half its share."""
    assigned: dict[str, Split] = {}
    free = []
    for group in groups:
        bound = {split for name in group for speaker in dialogues[name] for split in settled.get(speaker, ())}
        if len(bound) > 1:
            return None
        if bound:
            assigned.update(dict.fromkeys(group, bound.pop()))
        else:
            free.append(group)
    assigned.update(_deal(free, shares, seed))
    if not settled:
        for split, share in zip(SPLITS, shares, strict=True):
            if share and sum(value == split for value in assigned.values()) < max(1.0, share * len(dialogues) / 2):
                return None
    return assigned


def _groups(dialogues: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """The connected components of dialogues that share speakers."""
    leader = {name: name for name in dialogues}

    def root(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    first: dict[str, str] = {}
    for name, speakers in dialogues.items():
        for speaker in sorted(speakers):
            leader[root(name)] = root(first.setdefault(speaker, name))
    groups: dict[str, list[str]] = {}
    for name in dialogues:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _deal(groups: list[list[str]], shares: Sequence[float], seed: int) -> dict[str, Split]:
    """Assign groups, largest first and equal ones by hash, to the split that lacks most of its share.

    If there are few dialogues, no split stays empty.
    """
    total = sum(map(len, groups))
    lacking = {split: share * total for split, share in zip(SPLITS, shares, strict=True) if share}
    if total >= len(lacking):
        lacking.update({split: max(lacking[split], 1.0) for split in lacking if split != "train"})
        lacking["train"] = total - sum(lack for split, lack in lacking.items() if split != "train")
    assigned: dict[str, Split] = {}
    for group in sorted(groups, key=lambda group: (-len(group), _hash(min(group), seed))):
        split = max(lacking, key=lambda split: lacking[split])
        lacking[split] -= len(group)
        assigned.update(dict.fromkeys(group, split))
    return assigned


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
