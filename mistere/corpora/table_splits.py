"""Splits for a table that has none: whole dialogues, speakers apart where that is possible, the same for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS, Split


@dataclass(frozen=True, slots=True)
class Assignment:
    """The split of every dialogue, and whether speakers were kept apart."""

    splits: dict[str, Split]
    by_speaker: bool


def check_shares(shares: Sequence[float]) -> None:
    """Refuse shares of train, dev and test that are no shares.

    Raises:
        UsageError: they are not three numbers from 0 to 1 that make 1, or nothing is left for train.
    """
    sound = len(shares) == 3 and all(0 <= share <= 1 for share in shares) and abs(sum(shares) - 1) < 1e-6
    if not sound or shares[0] == 0:
        raise UsageError(
            f"splits is {', '.join(map(str, shares))}: three shares (train, dev, test) that make 1 are expected, such as "
            "0.8, 0.1, 0.1."
        )


def assign(
    dialogues: Mapping[str, frozenset[str]],
    shares: Sequence[float],
    seed: int,
    settled: Mapping[str, frozenset[Split]],
) -> Assignment:
    """Give every dialogue a split.

    Dialogues that share speakers, also through others, are a group. Where there are groups enough, they stay together and no
    voice is in two splits; else each dialogue goes by itself.

    Args:
        dialogues: the speakers of each dialogue that has no split yet; none where they are unknown.
        shares: of train, dev and test.
        seed: for the order in which dialogues are dealt out.
        settled: the splits that speakers are in already.
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
    """Splits by groups; None where a group has speakers in two splits already, or a split would get far too little."""
    found: dict[str, Split] = {}
    free = []
    for group in groups:
        bound = {split for name in group for speaker in dialogues[name] for split in settled.get(speaker, ())}
        if len(bound) > 1:
            return None
        if bound:
            found.update(dict.fromkeys(group, bound.pop()))
        else:
            free.append(group)
    found.update(_deal(free, shares, seed))
    if not settled:
        for split, share in zip(SPLITS, shares, strict=True):
            if share and sum(value == split for value in found.values()) < max(1.0, share * len(dialogues) / 2):
                return None
    return found


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
    """Large groups first, those of a size in the order of their hashes, each to the split that lacks most of its share.

    A few dialogues are dealt so that no split stays empty.
    """
    total = sum(map(len, groups))
    lacking = {split: share * total for split, share in zip(SPLITS, shares, strict=True) if share}
    if total >= len(lacking):
        lacking.update({split: max(lacking[split], 1.0) for split in lacking if split != "train"})
        lacking["train"] = total - sum(lack for split, lack in lacking.items() if split != "train")
    found: dict[str, Split] = {}
    for group in sorted(groups, key=lambda group: (-len(group), _hash(min(group), seed))):
        split = max(lacking, key=lambda split: lacking[split])
        lacking[split] -= len(group)
        found.update(dict.fromkeys(group, split))
    return found


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
