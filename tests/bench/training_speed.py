"""Training throughput of the mixture relative to simpler models: the published one, written plainly, and a small BiGRU.

usage: mistere bench training_speed [--seconds S] [--width D] [--hidden H] [--corpus NAME] [--small H] [--checkpoint H] [--cpu-time] [--threads N]

Dialogues as long as IEMOCAP's (mean 49, up to 110) and MELD's (mean 10, up to 33); 2048-wide inputs, H = 512, 8 dialogues a
batch. Both have the settings of the profile `published`. The plain one pads to the longest dialogue of a batch in file order and computes in fp32, as the
published scripts do. The variants alternate within one run, so that a slow period of the machine affects all of them; the ratio
is of the medians. Then: the two losses on a batch of equal lengths, where a step's time goes, the time of an epoch and the
peak memory at 1, 4 and 16 times the dialogues.

With `--small H` only: epochs of the mixture with 20 + 384 columns, width H and the other settings of the profile `sample`, and with the
number of layers and blocks that `mistere train` has, beside a BiGRU of two layers of that width (torch.nn.GRU, packed) with batches of the
same size. An epoch includes the evaluation on dev. With `--cpu-time` the rates are per second of CPU time; on a busy machine, with
`--threads 1`, they vary less. With `--checkpoint H` only: size and cost of a checkpoint of that width.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mistere.artifacts.checkpoint_writing import CheckpointSchedule
from mistere.config.mixture import MixtureConfig, known
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.automatic_settings import uses_bf16
from mistere.model.mixture.fitting.batches import dialogue_batches
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import make_batch
from mistere.model.mixture.training import MixtureTraining
from pipelines.profiles import load_profile
from tests.bench.reference.baselines import BiGRU, labels_of, predict, train_epoch
from tests.bench.reference.published_design import PADDING, Published, PublishedDesign, padded, step
from tests.bench.reference.published_weights import from_mixture

CLASSES = 6
CORPORA = {"IEMOCAP-like": (49, 18, 110), "MELD-like": (10, 6, 33)}


def lengths_like(corpus: str, count: int, seed: int = 0) -> list[int]:
    """Dialogue lengths of a corpus's mean, spread and maximum, the longest among them."""
    mean, spread, most = CORPORA[corpus]
    draw = np.random.default_rng(seed)
    shape = (mean / spread) ** 2
    lengths = np.clip(draw.gamma(shape, mean / shape, count).round(), 1, most).astype(int)
    lengths[0] = most
    return [int(length) for length in draw.permutation(lengths)]


def embeddings(
    lengths: Sequence[int], width: int | Mapping[str, int], folder: Path | None = None, dev: int = 2
) -> EmbeddedDialogues:
    """Random speech and text embeddings, in memory or memory-mapped from a folder; train is everything, and dev the first dialogues."""
    rows = sum(lengths)
    draw = np.random.default_rng(1)
    matrices = {}
    widths = width if isinstance(width, Mapping) else {"speech": width, "text": width}
    for name, columns in widths.items():
        if folder is None:
            matrices[name] = draw.standard_normal((rows, columns), dtype=np.float32)
            continue
        path = folder / f"{name}.npy"
        matrix = np.lib.format.open_memmap(path, "w+", np.float32, (rows, columns))
        for start in range(0, rows, 4096):
            matrix[start : start + 4096] = draw.standard_normal((min(4096, rows - start), columns), dtype=np.float32)
        matrix.flush()
        del matrix
        matrices[name] = np.load(path, mmap_mode="r")
    labels = draw.integers(0, CLASSES, rows)
    ends = np.cumsum(lengths)
    dialogues = [
        EmbeddedDialogue(f"d{index}", slice(int(end - length), int(end)), labels[end - length : end])
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]
    return EmbeddedDialogues({"train": dialogues, "dev": dialogues[:dev]}, matrices, [str(i) for i in range(CLASSES)])


def published(hidden: int) -> MixtureConfig:
    """The published settings with another width."""
    return load_profile("published").mixture.model_copy(update={"hidden": hidden, "fusion_width": 2 * hidden})


def plain_size(config: MixtureConfig, width: int) -> Published:
    """Sizes of the plain implementation."""
    return Published(classes=CLASSES, width=(width, width), context=config.hidden, fusion=config.fusion_width)


def plain_steps(config: MixtureConfig, data: EmbeddedDialogues) -> list[tuple[int, Callable[[], None]]]:
    """One step per batch in file order; yields the number of utterances."""
    torch.manual_seed(0)
    model = PublishedDesign(plain_size(config, data.dimensions["text"])).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=known(config.learning_rate))
    train = data.split("train")
    groups = [train[i : i + config.batch_dialogues] for i in range(0, len(train), config.batch_dialogues)]

    def one(group: Sequence[EmbeddedDialogue]) -> None:
        read = [data.read(dialogue) for dialogue in group]
        batch = [padded([rows[name] for rows in read]) for name in ("speech", "text")]
        step(model, optimizer, [*batch, padded([dialogue.labels for dialogue in group], PADDING)])

    return [(sum(map(len, group)), lambda group=group: one(group)) for group in groups]  # type: ignore[misc]


def our_steps(config: MixtureConfig, data: EmbeddedDialogues) -> list[tuple[int, Callable[[], None]]]:
    """The same for the project's training: batches by length, in random order."""
    torch.manual_seed(0)
    training = MixtureTraining(config, data)
    training.model.train()
    groups = dialogue_batches(data.split("train"), config.batch_dialogues, random.Random(0))
    return [
        (sum(map(len, group)), lambda group=group: (training.train_step(group), None)[1])  # type: ignore[misc]
        for group in groups
    ]


def race(
    variants: dict[str, list[tuple[int, Callable[[], None]]]],
    seconds: float,
    clock: Callable[[], float],
    least: int = 3,
) -> dict[str, float]:
    """Utterances per second of each variant over whole epochs, alternating until the time is up, ``least`` epochs at least."""
    for steps in variants.values():
        steps[0][1]()
    rates: dict[str, list[float]] = {name: [] for name in variants}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates[next(iter(rates))]) < least:
        for name, steps in variants.items():
            start = clock()
            for _, run in steps:
                run()
            rates[name].append(sum(count for count, _ in steps) / (clock() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def bigru_epoch(data: EmbeddedDialogues, hidden: int, batch: int) -> Callable[[], None]:
    """An epoch of a BiGRU of two layers on all columns, with the evaluation on dev."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    train, dev = (
        [torch.from_numpy(np.concatenate(list(data.read(dialogue).values()), axis=1)) for dialogue in dialogues]
        for dialogues in (data.split("train"), data.split("dev"))
    )
    labels = labels_of(data.split("train"))
    dev_labels = np.concatenate([dialogue.labels for dialogue in data.split("dev")])
    model = BiGRU(train[0].shape[1], CLASSES, hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch() -> None:
        train_epoch(model, optimizer, train, labels, draw, batch)
        weighted_f1(confusion(dev_labels, predict(model, dev).argmax(1), CLASSES))

    return epoch


def race_small(hidden: int, seconds: float, clock: Callable[[], float]) -> None:
    """Print utterances per second of small mixtures and of a BiGRU, and the ratios."""
    data = embeddings(lengths_like("IEMOCAP-like", 48), {"speech": 20, "text": 384}, dev=8)
    sample = load_profile("sample").mixture.model_copy(update={"hidden": hidden, "fusion_width": 2 * hidden})
    defaults = MixtureConfig(hidden=hidden, fusion_width=2 * hidden)
    deep = sample.model_copy(update={name: getattr(defaults, name) for name in ("gru_layers", "fusion_blocks")})
    count = sum(map(len, data.split("train")))
    variants = {"BiGRU": [(count, bigru_epoch(data, hidden, sample.batch_dialogues))]}
    for name, config in (("mixture, sample", sample), ("mixture, deep", deep)):
        training = MixtureTraining(config, data)
        variants[name] = [(count, training.train_epoch)]
        print(f"{name}: {sum(one.numel() for one in training.model.parameters()) / 1e6:.1f} M weights")
    rates = race(variants, seconds, clock)
    print(f"\n20 + 384 columns, H = {hidden}: utterances per second")
    for name, rate in rates.items():
        print(f"  {name:<16} {rate:7.0f}  {rate / rates['BiGRU']:5.2f}x")


def loss_difference(config: MixtureConfig, width: int) -> float:
    """Between the plain loss and ours, same weights, 8 dialogues of 12 turns, without dropout."""
    torch.manual_seed(0)
    model = MixtureOfExperts(config, {"speech": width, "text": width}, CLASSES).eval()
    plain = PublishedDesign(plain_size(config, width)).eval()
    plain.load_state_dict(from_mixture(model.state_dict(), plain.size))
    data = embeddings([12] * config.batch_dialogues, width)
    train = data.split("train")
    read, labels = [data.read(dialogue) for dialogue in train], [dialogue.labels for dialogue in train]
    batch = make_batch(read, data.dimensions, labels)
    with torch.no_grad():
        ours = model.loss(batch, model(batch))
        output = plain(*(padded([rows[name] for rows in read]) for name in ("speech", "text")))
        theirs = sum(plain.losses(output, padded(labels, PADDING)).values())
    return abs(float(ours) - float(theirs))


def profile(config: MixtureConfig, data: EmbeddedDialogues) -> list[tuple[str, float]]:
    """Shares of a step's time by operation, the largest ones."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    steps = our_steps(config, data)
    steps[0][1]()
    with watch(activities=[ProfilerActivity.CPU]) as seen:
        for _, run in steps[:6]:
            run()
    events = seen.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    shares = sorted(((event.key, event.self_cpu_time_total / total) for event in events), key=lambda pair: -pair[1])
    return shares[:8]


def grow(times: int, width: int, hidden: int) -> None:
    """Print seconds of an epoch, its utterances and the peak of anonymous memory, with ``times`` the dialogues."""
    config = published(hidden)
    with tempfile.TemporaryDirectory() as folder:
        data = embeddings(lengths_like("MELD-like", 64 * times), width, Path(folder))
        training = MixtureTraining(config, data)
        training.model.train()
        groups = dialogue_batches(data.split("train"), config.batch_dialogues, random.Random(0))
        training.train_step(groups[0])
        peak, start = 0, time.perf_counter()
        for group in groups:
            training.train_step(group)
            status = Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii")
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))
        seconds = time.perf_counter() - start
    print(f"{seconds:.4f} {sum(len(d) for d in data.split('train'))} {peak / 1024:.0f}")


def checkpoint(hidden: int) -> None:
    """Print size and cost of a checkpoint with 20 + 384 columns and width H, and the interval that follows."""
    data = embeddings([5] * 16, {"speech": 20, "text": 384})
    training = MixtureTraining(MixtureConfig(hidden=hidden, fusion_width=2 * hidden), data)
    for epoch in range(2):  # the optimiser's state exists after a step; then an epoch that is not the best one
        training.train_epoch()
        training.best_epoch, training.best_score = 1, 2.0
        with tempfile.TemporaryDirectory() as folder:
            schedule, start = CheckpointSchedule.bounded(), time.perf_counter()
            size = training.save(Path(folder))
            seconds = time.perf_counter() - start
        schedule.measured(seconds, size)
        which = "other than the best" if epoch else "the best"
        print(f"epoch is {which}: {size / 1e6:.0f} MB, {seconds:.2f} s, one every {schedule.interval:.0f} s")


def main() -> None:
    """Race, compare, profile, grow."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--corpus", choices=list(CORPORA))
    parser.add_argument("--grow", type=int)
    parser.add_argument("--small", type=int, metavar="H", help="only the race of small models, of width H")
    parser.add_argument("--checkpoint", type=int, metavar="H", help="only the cost of a checkpoint at width H")
    parser.add_argument("--dialogues", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each variant at least")
    parser.add_argument("--race-only", action="store_true", help="without profiles and growth")
    parser.add_argument("--cpu-time", action="store_true", help="rates per second of CPU time")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.checkpoint:
        checkpoint(options.checkpoint)
        return
    if options.small:
        race_small(options.small, options.seconds, clock)
        return
    if options.grow:
        grow(options.grow, options.width, options.hidden)
        return
    config = published(options.hidden)
    if not options.race_only:
        print(f"largest difference of the losses on equal lengths: {loss_difference(config, options.width):.1e}")
    bf16 = config.model_copy(update={"precision": "bf16"})
    has_bf16 = uses_bf16(bf16, torch.device("cpu"), 0)
    for corpus in [options.corpus] if options.corpus else CORPORA:
        data = embeddings(lengths_like(corpus, options.dialogues), options.width)
        variants = {"published, fp32": plain_steps(config, data), "mixture, fp32": our_steps(config, data)}
        if has_bf16:
            variants["mixture, bf16"] = our_steps(bf16, data)
        rates = race(variants, options.seconds, clock, options.rounds)
        print(f"\n{corpus}: utterances per second")
        for name, rate in rates.items():
            print(f"  {name:<16} {rate:7.0f}  {rate / rates['published, fp32']:5.2f}x")
        if options.race_only:
            continue
        for name, settings in [("fp32", config), *([("bf16", bf16)] if has_bf16 else [])]:
            print(f"  a step in {name}: " + ", ".join(f"{key} {share:.0%}" for key, share in profile(settings, data)))
    if options.race_only:
        return
    print("\ntime of an epoch and peak anonymous memory, MELD-like")
    for times in (1, 4, 16):
        command = [sys.executable, __file__, "--grow", str(times), "--width", "256", "--hidden", "64"]
        seconds, utterances, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        each = float(seconds) / int(utterances) * 1e6
        print(f"  {times:>2}x: {utterances:>6} utterances, {float(seconds):6.2f} s, {each:5.0f} µs each, {peak} MiB")


if __name__ == "__main__":
    main()
