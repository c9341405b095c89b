"""A dataset's vectors do not depend on the number of shards; repeated inputs are embedded once, damaged ones again."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import components.embed_shard.run as embed_shard
from components.embed_shard.run import ShardConfig, share_of
from components.extract_embeddings.run import run as extract_embeddings
from components.finetune_encoder.fine_tuning import fine_tune
from components.pull_data.run import describe
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.io import ArtifactHandle, publish
from mistere.artifacts.manifests import EmbeddingShard, EncoderCheckpoint, UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import DataError, ExitCode, MistereError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.common.progress import Progress
from mistere.config.base import Section
from mistere.config.encoder import EncoderConfig, ExtractionSettings, SpeechConfig, TextConfig
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.data.kinds.kind import UnreadableError
from mistere.data.utterances import batches_of_one_shape, batches_within, row_ranges
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, Step, TaskShard
from mistere.model.embedders import open_embedder
from mistere.model.embedding_windows import WindowEmbedder, WindowItem
from mistere.model.encoders.embedding import Embedder
from mistere.model.encoders.families import families
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, save_tuned
from mistere.model.vector_cache import VectorCache
from pipelines.profiles import load_profile
from tests.local.workshop import make_dataset, rows, tone

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS: dict[str, EncoderConfig] = {
    "speech": SpeechConfig(source="random:whisper", projection=8, epochs=1, learning_rate=1e-3, min_seconds=0.2),
    "text": TextConfig(source="random:bidirectional_text", projection=8, epochs=1, context_turns=2, max_tokens=24),
}


class RecordedProgress(Progress):
    """Records the progress notes."""

    def __init__(self) -> None:
        super().__init__("embed_shard")
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def make_step(store: LocalStore) -> Step:
    context = RunContext(run_id="test", store=store.uri, tracking_uri="")
    key = uuid.uuid4().hex
    return Step("task", key, context, store, RecordedProgress(), Checkpoints(store, "stage", key))


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Utterance]]:
    return list(rows())


def pin_and_describe(folder: Path, utterances: Sequence[tuple[Any, Utterance]]) -> UtteranceSet:
    pinned = pin(str(make_dataset(folder / "tones", utterances)), str(folder / "remote"))
    return describe(pinned.remote, pinned.digest)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, utterances: list[tuple[Any, Utterance]]) -> UtteranceSet:
    return pin_and_describe(tmp_path_factory.mktemp("data"), utterances)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def encoders(
    tmp_path_factory: pytest.TempPathFactory, reference: UtteranceSet, store: LocalStore
) -> dict[str, ArtifactHandle[EncoderCheckpoint]]:
    checkpoints = {}
    for modality, settings in SETTINGS.items():
        folder = tmp_path_factory.mktemp(modality)
        manifest = fine_tune(settings, make_step(store), reference, folder, modality)  # type: ignore[arg-type]
        checkpoints[modality] = ArtifactHandle(folder, manifest)
    return checkpoints


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("audio", "text"):
        monkeypatch.setattr(type(kind_of(kind)), "rows_per_window", 7)


def embed(
    reference: UtteranceSet,
    encoder: ArtifactHandle[EncoderCheckpoint],
    store: LocalStore,
    folder: Path,
    of: int = 1,
    **settings: Any,
) -> tuple[Path, list[str]]:
    """Embed a dataset in ``of`` shards; return the folder of joined vectors and the progress notes."""
    modality = encoder.manifest.modality
    extraction = ExtractionSettings(
        **{"cache": "off", "batch_seconds": 4, "batch_tokens": 64, **settings.pop("extraction", {})}
    )
    config = ShardConfig(extraction=extraction, **settings)
    shards, notes = [], []
    for index in range(of):
        part = folder / f"{index}of{of}"
        part.mkdir(parents=True)
        step = make_step(store)
        result = embed_shard.run(
            config, step, ArtifactHandle(Path(), reference), encoder, part, modality, TaskShard(index, of)
        )
        shards.append(ArtifactHandle(part, result.manifests["vectors"]))
        notes += step.progress.notes  # type: ignore[attr-defined]
    joined = folder / "joined"
    joined.mkdir()
    step = make_step(store)
    result = extract_embeddings(Section(), step, ArtifactHandle(Path(), reference), shards, joined, modality)  # type: ignore[arg-type]
    assert result.manifests["embeddings"].rows == reference.rows  # type: ignore[attr-defined]
    return joined, notes


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.long
@pytest.mark.parametrize("modality", [pytest.param("speech", marks=pytest.mark.long), "text"])
def test_number_of_shards_does_not_change_the_bytes(
    modality: str, reference: UtteranceSet, encoders: Any, store: LocalStore, tmp_path: Path
) -> None:
    single, _ = embed(reference, encoders[modality], store, tmp_path / "one")
    for of in (2, 3, 5):
        sharded, _ = embed(reference, encoders[modality], store, tmp_path / str(of), of)
        assert read_files(sharded) == read_files(single)
    again, _ = embed(reference, encoders[modality], store, tmp_path / "again")
    assert read_files(again) == read_files(single)


def count_prepared(monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    """The utterances that are embedded from now on."""
    prepared: list[Utterance] = []
    prepare = Embedder.prepare

    def counting(self: Embedder, utterance: Utterance, context: Sequence[str] = ()) -> Any:
        prepared.append(utterance)
        return prepare(self, utterance, context)

    monkeypatch.setattr(Embedder, "prepare", counting)
    return prepared


class KilledError(BaseException):
    """The process was killed."""


@pytest.mark.parametrize(
    ("modality", "variant"),
    [
        pytest.param("speech", "warmed", marks=pytest.mark.long),
        pytest.param("text", "warmed", marks=pytest.mark.long),
        ("text", "no cache"),
        pytest.param("text", "warmed by window", marks=pytest.mark.long),
    ],
)
def test_a_cache_of_any_content_does_not_change_the_bytes(
    modality: str,
    variant: str,
    encoders: Any,
    store: LocalStore,
    utterances: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cold, killed between windows, warm, warm by another dataset, in two shards; with repeated sentences and recordings."""
    if variant == "warmed by window":
        monkeypatch.setattr(Embedder, "batch_invariant", False)  # as on a GPU
    vectors_of = Embedder._vectors

    def round_by_shape(self: Embedder, features: Any) -> Any:
        """Real kernels round by shape only from a size on that an encoder of a test does not have."""
        return vectors_of(self, features) + 1e-5 * len(features) + 1e-6 * max(one["length"] for one in features)

    monkeypatch.setattr(Embedder, "_vectors", round_by_shape)
    varied = [
        (split, dataclasses.replace(u, text="a" * (i % 9) + f" {i}", audio=tone(200 + i, 0.3 + 0.07 * (i % 9))))
        for i, (split, u) in enumerate(utterances)
    ]
    again = [(split, dataclasses.replace(u, dialogue_id=f"{u.dialogue_id}-again")) for split, u in varied[4:40]]
    reference = pin_and_describe(tmp_path, [*varied[:40], *again, *varied[40:]])
    other = pin_and_describe(tmp_path / "other", [*varied[20:40], *varied[40:]])

    def extract(name: str, cache: str, of: int = 1, dataset: UtteranceSet = reference) -> dict[str, bytes]:
        extraction = {"cache": cache, "batch_tokens": 512, "batch_seconds": 30}
        return read_files(embed(dataset, encoders[modality], store, tmp_path / name, of, extraction=extraction)[0])

    cold = extract("cold", "off")
    if variant == "no cache":
        vectors = np.load(tmp_path / "cold" / "joined" / f"{modality}.npy")
        np.testing.assert_array_equal(vectors[4:40], vectors[40:76])
        return
    cache = str(tmp_path / "cache")
    add, kept = VectorCache.add, []

    def add_until_killed(self: VectorCache, keys: Any, computed: Any) -> None:
        if len(kept) == 3:
            raise KilledError
        kept.append(len(keys))
        add(self, keys, computed)

    with monkeypatch.context() as killing, pytest.raises(KilledError):
        killing.setattr(VectorCache, "add", add_until_killed)
        extract("killed", cache)
    assert extract("resumed", cache) == cold
    assert extract("warm", cache) == cold
    assert extract("two", str(tmp_path / "cache of two"), 2) == cold
    extract("other", str(tmp_path / "cache of another"), dataset=other)
    assert extract("after another", str(tmp_path / "cache of another")) == cold


@pytest.mark.long
@pytest.mark.parametrize("modality", [pytest.param("speech", marks=pytest.mark.long), "text"])
def test_a_vector_of_the_samples_encoder_does_not_depend_on_its_window(
    modality: Any, utterances: Any, tmp_path: Path
) -> None:
    """Their matrix products are large enough that a batch of another shape gives other bits."""
    settings: Any = getattr(load_profile("sample"), modality)
    base = resolve_base(settings, IMPLICIT_KINDS[modality], LocalStore(tmp_path))
    torch.manual_seed(0)
    save_tuned(UtteranceEncoder(families()[base.manifest.family](base.path, settings), settings, 3), tmp_path)
    tuned, sections = tmp_path / "tuned.safetensors", settings.for_checkpoint()
    float32 = ExtractionSettings(precision="float32")
    embedder = Embedder(modality, base.manifest.family, base.path, tuned, sections, 3, float32, device="cpu")
    contents = [
        dataclasses.replace(u, text="so " * (i % 5) + f"it is {i}", audio=tone(200 + i, 0.5 + 0.2 * (i % 5)))
        for i, (_, u) in enumerate(utterances[:21])
    ]
    windows = [contents, contents[::-2], contents[3:4], contents[5:12]]
    whole, *parts = embedder.embed_windows(windows, embedder.prepare)
    for window, vectors in zip(windows[1:], parts, strict=True):
        np.testing.assert_array_equal(vectors, whole[[contents.index(one) for one in window]])
    live = embedder.embed([embedder.prepare(one) for one in contents])
    assert 0 < np.abs(live - whole).max() < 1e-4, "batches of mixed lengths round differently"


class OverflowingEmbedder:
    """Makes NaN of the text ``overflow`` and infinity of ``infinite``, as half precision does."""

    modality, kind, dimension, batch_invariant = "text", kind_of("text"), 2, True

    def prepare(self, utterance: Utterance, context: Sequence[str]) -> dict[str, Any] | None:
        return {"text": utterance.text} if (utterance.text or "").strip() else None

    def embed_windows(self, windows: Any, prepare: Any) -> Any:
        rows = {"overflow": [np.nan, 1], "infinite": [1, np.inf]}
        for window in windows:
            made = [prepare(item) for item in window]
            yield np.array([[np.nan] * 2 if one is None else rows.get(one["text"], [1, 2]) for one in made], np.float32)


def test_an_utterance_at_which_the_encoder_overflows_is_unreadable_and_not_missing() -> None:
    refused: list[str] = []

    def on_unreadable(item: WindowItem[Utterance], error: UnreadableError) -> str:
        refused.append(f"{item.utterance.text}: {error}")
        return refused[-1]

    windows = WindowEmbedder[Utterance](cast(Any, OverflowingEmbedder()), None, on_unreadable)
    texts = ["Hi.", "overflow", " ", "infinite", None]
    (window,) = windows.embed([[windows.item(Utterance("d", turn, "a", text)) for turn, text in enumerate(texts)]])
    assert np.isnan(window.vectors).all(axis=1).tolist() == [False, True, True, True, True]
    assert refused == window.undecodable and [one.split(":")[0] for one in refused] == ["overflow", "infinite"]
    assert "no numbers" in refused[0]


def test_the_next_window_is_begun_while_one_is_used(encoders: Any, store: LocalStore, utterances: Any) -> None:
    manifest = encoders["text"].manifest
    embedder = open_embedder(
        store, "text", manifest.encoder, encoders["text"].file("tuned.safetensors"), len(manifest.labels)
    )
    drawn = []

    def windows() -> Any:
        for number in range(6):
            drawn.append(number)
            yield [utterance for _, utterance in utterances[number : number + 2]]

    ahead = [len(drawn) - used for used, _ in enumerate(embedder.embed_windows(windows(), embedder.prepare))]
    assert ahead == [3, 3, 3, 3, 2, 1], "two windows are in work beside the one in use, and no more are in memory"


@pytest.mark.parametrize("modality", ["speech", "text"])
def test_each_row_is_the_vector_of_its_utterance(
    modality: str, reference: UtteranceSet, encoders: Any, store: LocalStore, utterances: Any, tmp_path: Path
) -> None:
    folder, _ = embed(reference, encoders[modality], store, tmp_path / "a", extraction={"precision": "float32"})
    table = pq.read_table(folder / "utterances.parquet").to_pylist()
    vectors = np.load(folder / f"{modality}.npy")
    manifest = encoders[modality].manifest
    embedder = open_embedder(
        store, modality, manifest.encoder, encoders[modality].file("tuned.safetensors"), len(manifest.labels)
    )
    by_position = {(split, u.dialogue_id, u.turn): u for split, u in utterances}
    for row in (0, 5, 8, len(table) - 1):
        position = (table[row]["split"], table[row]["dialogue_id"], table[row]["turn"])
        context = [by_position[(*position[:2], turn)].text or "" for turn in range(position[2])]
        expected = embedder.embed([embedder.prepare(by_position[position], context)])[0]
        np.testing.assert_allclose(vectors[row], expected, atol=1e-5)


def test_bfloat16_vectors_are_close_to_float32(
    reference: UtteranceSet, encoders: Any, store: LocalStore, tmp_path: Path
) -> None:
    vectors = {
        precision: np.load(
            embed(reference, encoders["speech"], store, tmp_path / precision, extraction={"precision": precision})[0]
            / "speech.npy"
        )
        for precision in ("float32", "bfloat16")
    }
    difference = np.abs(vectors["bfloat16"] - vectors["float32"]).max()
    assert 0 < difference < 0.05 * np.abs(vectors["float32"]).max()


@pytest.mark.parametrize("cache", ["store", "folder"])
def test_cached_vectors_are_not_computed_again(
    cache: str,
    reference: UtteranceSet,
    encoders: Any,
    utterances: Any,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_store = LocalStore(tmp_path / "own")
    (own_store.root / "artifacts").mkdir(parents=True)
    (own_store.root / "artifacts" / "BaseEncoder").symlink_to(store.root / "artifacts" / "BaseEncoder")
    extraction = {"cache": "store" if cache == "store" else str(tmp_path / "shared")}
    first, notes = embed(reference, encoders["text"], own_store, tmp_path / "first", extraction=extraction)
    assert not notes
    extended = pin_and_describe(
        tmp_path / "bigger",
        [*utterances, ("test", dataclasses.replace(utterances[0][1], dialogue_id="new", text="never said before"))],
    )
    prepared = count_prepared(monkeypatch)
    second, notes = embed(reference, encoders["text"], own_store, tmp_path / "second", 2, extraction=extraction)
    assert read_files(second) == read_files(first) and not prepared
    assert sum(int(note.split()[0]) for note in notes) == sum(reference.rows.values())
    embed(extended, encoders["text"], own_store, tmp_path / "third", extraction=extraction)
    assert len(prepared) == 1


def test_repeated_utterances_are_embedded_once(
    encoders: Any, utterances: Any, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, utterance = utterances[0]
    repeated = [dataclasses.replace(utterance, turn=turn, audio=b"RIFF no audio", text="Okay.") for turn in range(5)]
    rest = [(other_split, u) for other_split, u in utterances if u.dialogue_id != utterance.dialogue_id]
    reference = pin_and_describe(tmp_path, [*((split, u) for u in repeated), *rest])
    prepared = count_prepared(monkeypatch)
    encoder = encoders["text"].manifest.encoder
    without_context = encoder.model_copy(update={"settings": {**encoder.settings, "context_turns": 0}})
    context_free = ArtifactHandle(
        encoders["text"].path,
        encoders["text"].manifest.model_copy(update={"encoder": without_context}),
    )
    folder, _ = embed(reference, context_free, store, tmp_path / "text")
    vectors = np.load(folder / "text.npy")
    assert len(prepared) < len(vectors) - 3 and np.isfinite(vectors).all()
    assert len({vectors[row].tobytes() for row in range(5)}) == 1
    _, notes = embed(reference, encoders["speech"], store, tmp_path / "speech", undecodable="missing")
    assert any("5 utterances whose audio does not decode" in note for note in notes)


def test_damaged_cache_segments_are_computed_again(
    reference: UtteranceSet, encoders: Any, store: LocalStore, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    extraction = {"cache": str(shared), "precision": "float32"}
    first, _ = embed(reference, encoders["speech"], store, tmp_path / "first", extraction=extraction)
    segments = sorted(shared.rglob("*.safetensors"))
    data = bytearray(segments[0].read_bytes())
    data[-3] ^= 1
    segments[0].write_bytes(data)
    segments[1].write_bytes(segments[1].read_bytes()[:100])
    segments[2].write_bytes(b"")
    second, notes = embed(reference, encoders["speech"], store, tmp_path / "second", extraction=extraction)
    np.testing.assert_allclose(np.load(second / "speech.npy"), np.load(first / "speech.npy"), atol=1e-5)
    assert sum("is damaged: its vectors are computed again" in note for note in notes) == 3
    third, notes = embed(reference, encoders["speech"], store, tmp_path / "third", extraction=extraction)
    assert read_files(third) == read_files(second) and len(notes) == 1


def test_different_inputs_have_different_keys() -> None:
    text = kind_of("text")
    keys = {kind_of("audio").digest(b"a"), text.digest("a"), text.digest("a", ("b",)), text.digest("ab")}
    assert len(keys) == 4 and {len(key) for key in keys} == {16}


def test_cache_is_separate_for_each_encoder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = VectorCache.open("store", store, "one", RecordedProgress())
    assert first is not None and VectorCache.open("off", store, "one", RecordedProgress()) is None
    key = kind_of("audio").digest(b"sound")
    first.add([key], np.ones((1, 3), np.float32))
    reopened, other = (VectorCache(store, name, RecordedProgress()) for name in ("one", "two"))
    assert set(reopened.find([None, key, kind_of("audio").digest(b"noise")])) == {1} and other.find([key]) == {}
    np.testing.assert_array_equal(reopened.find([key])[0], np.ones(3))


# Undecodable audio, batches larger than the device's memory, and absent modalities


def with_undecodable_audio(utterances: Any) -> list[tuple[Any, Utterance]]:
    changed = list(utterances)
    split, utterance = changed[4]
    changed[4] = (split, dataclasses.replace(utterance, audio=b"RIFF no audio"))
    return changed


def test_undecodable_audio_is_reported_with_its_utterance(
    encoders: Any, store: LocalStore, utterances: Any, tmp_path: Path
) -> None:
    split, utterance = with_undecodable_audio(utterances)[4]
    reference = pin_and_describe(tmp_path, with_undecodable_audio(utterances))
    with pytest.raises(
        DataError, match=f"{split} dialogue {utterance.dialogue_id}, turn {utterance.turn}: .*undecodable=missing"
    ) as caught:
        embed(reference, encoders["speech"], store, tmp_path / "a")
    assert caught.value.exit_code == ExitCode.DATA_REJECTED
    with pytest.raises(DataError, match="does not decode"):
        fine_tune(SETTINGS["speech"], make_step(store), reference, tmp_path, "speech")


@pytest.mark.long
def test_undecodable_audio_counts_as_missing_when_configured(
    encoders: Any, store: LocalStore, utterances: Any, tmp_path: Path
) -> None:
    reference = pin_and_describe(tmp_path, with_undecodable_audio(utterances))
    folder, notes = embed(reference, encoders["speech"], store, tmp_path / "a", undecodable="missing")
    assert np.isnan(np.load(folder / "speech.npy")[:, 0]).sum() == 1
    assert any("1 utterance whose audio does not decode" in note for note in notes)
    settings = SETTINGS["speech"].model_copy(update={"undecodable": "missing"})
    (tmp_path / "out").mkdir()
    assert fine_tune(settings, make_step(store), reference, tmp_path / "out", "speech").undecodable == 1


def test_batch_that_exceeds_memory_is_halved(
    reference: UtteranceSet, encoders: Any, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, _ = embed(reference, encoders["text"], store, tmp_path / "whole", extraction={"precision": "float32"})
    family = families()["bidirectional_text"]
    hidden_states = family.hidden_states

    def fail_above_one(self: Any, backbone: Any, batch: Any) -> Any:
        if len(batch["input_ids"]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return hidden_states(self, backbone, batch)

    monkeypatch.setattr(family, "hidden_states", fail_above_one)
    halved, notes = embed(reference, encoders["text"], store, tmp_path / "half", extraction={"precision": "float32"})
    np.testing.assert_allclose(np.load(halved / "text.npy"), np.load(full / "text.npy"), atol=1e-5)
    assert any("do not fit into the device's memory" in note for note in notes)
    monkeypatch.setattr(family, "hidden_states", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(MistereError, match=r"one utterance does not fit .*: lower text\.max_tokens\."):
        embed(reference, encoders["text"], store, tmp_path / "none")


def test_the_shape_of_a_batch_depends_on_each_of_its_lengths_alone() -> None:
    assert batches_of_one_shape([3, 9, 3, 40, 3], 8) == [([3], 1), ([1], 1), ([0, 2, 4], 4)]
    assert batches_of_one_shape([3] * 5, 8) == [([0, 1, 2, 3], 4), ([4], 4)]
    assert batches_of_one_shape([], 8) == []
    assert batches_of_one_shape([0], 8) == [([0], 8)]  # a text of which a tokenizer leaves nothing


def test_batches_stay_within_the_budget() -> None:
    lengths = [5, 1, 9, 2, 2, 8, 30]
    batches = batches_within(lengths, 18)
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert batches[0] == [6]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 18 for batch in batches[1:])


def test_shards_cover_every_row_once(reference: UtteranceSet) -> None:
    ranges = row_ranges(reference, 7)
    assert sum(part.stop - part.start for part in ranges) == sum(shard.rows for shard in reference.shards)
    for of in (1, 2, 3, len(ranges), len(ranges) + 3):
        assert [part for index in range(of) for part in share_of(ranges, TaskShard(index, of))] == ranges


def test_absent_modality_loads_no_encoder(reference: UtteranceSet, store: LocalStore, tmp_path: Path) -> None:
    absent = ArtifactHandle(Path(), EncoderCheckpoint(modality="speech", absent=True))
    result = embed_shard.run(
        ShardConfig(), make_step(store), ArtifactHandle(Path(), reference), absent, tmp_path, "speech", TaskShard(0, 1)
    )
    shard = publish(store, result.manifests["vectors"], tmp_path)
    assert isinstance(shard, EmbeddingShard) and shard.absent and not shard.files
