"""The configuration: profiles, ``--set``, bounds, and its form as pipeline parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format, struct_pb2
from pydantic import ValidationError

from components.gate_model.config import GateConfig
from mistere.common.errors import ExitCode, UsageError
from mistere.common.suggestions import did_you_mean, one_of
from mistere.config.base import Section
from mistere.config.differences import changed_settings
from mistere.config.encoder import EncoderConfig
from mistere.config.loader import available_profiles, load_config, parse_setting
from mistere.config.mixture import MixtureConfig
from pipelines.profiles import PIPELINE_CONFIG, PROFILES, load_profile


@pytest.mark.parametrize("profile", available_profiles(PROFILES))
def test_each_profile_loads(profile: str) -> None:
    config = load_profile(profile)
    values = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text())
    assert config.seed == values.get("seed", 0)


@pytest.mark.parametrize("profile", available_profiles(PROFILES))
def test_section_round_trips_through_kfp_parameters(profile: str) -> None:
    config = load_profile(profile, ["seed=7", "speech.lora.target_modules=[a, b]", "data.max_dialogues=5"])
    for name in config.sections:
        section = getattr(config, name)
        struct = struct_pb2.Struct()
        struct.update(config.section(name))
        travelled: dict[str, Any] = json_format.MessageToDict(struct)
        again = type(section).model_validate(travelled)
        assert again == section and again.model_dump_json() == section.model_dump_json()
        assert all(value is not None for value in travelled.values())


def test_changed_settings_are_those_that_differ_from_their_defaults(tmp_path: Path) -> None:
    profile = tmp_path / "own.yaml"
    profile.write_text("seed: 7\nmixture: {hidden: 64, gru_layers: 3}\n")
    config = load_profile(
        str(profile), ["speech.lora.rank=4", "gate.min_weighted_f1=0.7", "data.max_dialogues=5", "text.source=hub:a/b"]
    )
    assert config.mixture.gru_layers == PIPELINE_CONFIG().mixture.gru_layers and config.mixture.seed == 7
    assert changed_settings(config) == {
        "seed": 7,
        "data.max_dialogues": 5,
        "speech.lora.rank": 4,
        "text.source": "hub:a/b",
        "mixture.hidden": 64,
        "gate.min_weighted_f1": 0.7,
    }
    assert changed_settings(config.model_copy(update={"mixture": MixtureConfig(seed=3)}))["mixture.seed"] == 3
    assert not changed_settings(PIPELINE_CONFIG()) and len(changed_settings(load_profile("sample"))) < 50


def refused(*settings: str, profile: str = "tiny", sections: Sequence[str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load_profile(profile, settings, sections=sections)
    assert caught.value.exit_code == ExitCode.USAGE
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_a_command_takes_only_the_settings_that_it_uses() -> None:
    assert load_profile("tiny", ["mixture.epochs=3", "seed=2"], sections=("seed", "mixture")).mixture.seed == 2
    assert "did you mean 'mixture.epochs'?" in refused("epochs=3", sections=("seed", "mixture"))
    assert refused("speech.epochs=3", sections=("seed", "mixture")) == (
        "--set speech.epochs: this command uses only seed, mixture: leave the setting out."
    )


@pytest.mark.parametrize(
    ("settings", "message_part"),
    [
        (["gaet.min_weighted_f1=0.5"], "unknown setting 'gaet'; did you mean 'gate'?"),
        (["gate.min_weigted_f1=0.5"], "unknown setting 'gate.min_weigted_f1'; did you mean 'min_weighted_f1'?"),
        (["speech.lora.rnk=4"], "unknown setting 'speech.lora.rnk'; did you mean 'rank'?"),
        (
            ["epochs=3"],
            "unknown setting 'epochs'; did you mean 'text.epochs', 'speech.epochs', 'mixture.epochs' or 'distillation.epochs'?",
        ),
        (["gate.epochs=3"], "unknown setting 'gate.epochs'; did you mean "),
        (["speech.rank=3"], "unknown setting 'speech.rank'; did you mean 'speech.lora.rank' or 'text.lora.rank'?"),
        (["lora.rank=3"], "unknown setting 'lora'; did you mean 'text.lora' or 'speech.lora'?"),
        (["min_weighted_f=0"], "unknown setting 'min_weighted_f'; did you mean 'gate.min_weighted_f1'?"),
        (["zzz=1"], "unknown setting 'zzz'; valid names: cluster, data, deployment, distillation, evaluation,"),
        (["gate.zzz=1"], "valid names: "),
        (["gate..min_weighted_f1=1"], "unknown setting"),
        (["gate.min_weighted_f1"], "write it as section.key=value"),
        (["=1"], "write it as section.key=value"),
        (["gate.min_weighted_f1=[1"], "not valid YAML"),
        (["gate.min_weighted_f1=high"], "gate.min_weighted_f1: Input should be a valid number"),
        (["gate.min_weighted_f1=1.5"], "less than or equal to 1 (found 1.5)"),
        (["gate=0.5"], "gate: Input should be a valid dictionary"),
        (["gate.min_weighted_f1.x=0.5"], "gate.min_weighted_f1: Input should be a valid number"),
        (["speech.epochs=0"], "speech.epochs: Input should be greater than 0 (found 0)"),
        (["speech.epochs=1.5"], "speech.epochs: Input should be a valid integer"),
        (["speech.dropout=1"], "speech.dropout: Input should be less than 1"),
        (["speech.pooling=max"], "speech.pooling: Input should be 'mean', 'attentive'"),
        (["data.max_dialogues=2"], "data.max_dialogues: Input should be greater than or equal to 3"),
        (["mixture.learning_rate=.inf"], "mixture.learning_rate: Input should be a finite number"),
        (["mixture.learning_rate=.nan"], "mixture.learning_rate: Input should be a finite number"),
        (["mixture.kernels=[]"], "mixture.kernels: List should have at least 1 item"),
        (["mixture.kernels=[1, 4]"], "mixture.kernels: Kernels should be odd"),
        (["mixture.kernels=[-1]"], "mixture.kernels: Kernels should be odd"),
        (["mixture.attention_width=100"], "mixture.attention_heads: attention_width 100 should be a multiple of it"),
        (["mixture.attention_heads=7"], "attention_width 12 should be a multiple of it (found 7)"),
        (["seed=-1"], "seed: Input should be greater than or equal to 0"),
        (["seed=4294967296"], "seed: Input should be less than 4294967296"),
        (
            ["cluster.steps.train_moe.cpu=true"],
            "cluster.steps.train_moe.cpu: Input should be a valid string (found True)",
        ),
        (["cluster.steps.train_moe.cpu=-1"], "cluster.steps.train_moe.cpu: String should match pattern"),
        (
            ["deployment.scale_metric=memory"],
            "deployment.scale_target: scale_metric memory needs a target, a percentage of the memory request (found 0)",
        ),
        (["mixture.seed=-1"], "mixture.seed: Input should be greater than or equal to 0"),
    ],
)
def test_invalid_setting_error_names_the_valid_form(settings: list[str], message_part: str) -> None:
    assert message_part in refused(*settings)


def test_quantities_accept_numbers() -> None:
    """``--set`` parses its value as YAML, in which ``2`` is a number."""
    settings = ["text.nodes.cpu_limit=2", "cluster.steps.train_moe.memory=4000000000", "deployment.cpu=0.5"]
    config = load_profile("sample", settings)
    step = config.cluster.step("train_moe")
    assert (config.text.nodes.cpu_limit, step.memory, config.deployment.cpu) == ("2", "4000000000", "0.5")
    assert load_profile("tiny", ["deployment.scale_metric=memory", "deployment.scale_target=70"])


@pytest.mark.parametrize("name", ["sha256", "prompt"])
def test_empty_value_of_a_text_setting_is_the_empty_text(name: str, tmp_path: Path) -> None:
    assert getattr(load_profile("sample", [f"text.{name}="]).text, name) == ""
    (tmp_path / "own.yaml").write_text(f"text:\n  {name}:\n")
    assert getattr(load_profile(str(tmp_path / "own.yaml")).text, name) == ""


def test_each_text_setting_takes_an_empty_value_as_an_empty_text_and_no_other_setting_does() -> None:
    sections = [*PIPELINE_CONFIG.model_fields.values(), *EncoderConfig.model_fields.values()]
    found: list[str] = []
    for schema in (one.annotation for one in sections if isinstance(one.annotation, type)):
        if not issubclass(schema, Section):
            continue
        for name, field in schema.model_fields.items():
            if field.annotation is str:
                assert outcome(schema, name, None) == outcome(schema, name, "")
                found.append(name)
            elif "None" in str(field.annotation):
                assert outcome(schema, name, None) != ""
    assert len(found) > 20


def outcome(schema: type[Section], name: str, value: object) -> object:
    """What a section makes of a value: the value, or the kinds of its errors."""
    try:
        return getattr(schema.model_validate({name: value}), name)
    except ValidationError as error:
        return [one["type"] for one in error.errors()]


def test_unknown_profile_error_suggests_the_nearest() -> None:
    assert refused(profile="sampel") == "unknown profile 'sampel'; did you mean 'sample'?"
    message = refused(profile="zzzzzz")
    assert message.startswith("unknown profile 'zzzzzz'; valid names: ") and "tiny" in message


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("gate.min_weighted_f1=0.4", ["gate", "min_weighted_f1"], 0.4),
        ("mixture.kernels=[1, 3]", ["mixture", "kernels"], [1, 3]),
        ("data.max_dialogues=null", ["data", "max_dialogues"], None),
        ("speech.lora.rank=16", ["speech", "lora", "rank"], 16),
        ("speech.source=path:/a=b", ["speech", "source"], "path:/a=b"),
        (" registry.model_name = a b", ["registry", "model_name"], "a b"),
        ("speech.train_layers=", ["speech", "train_layers"], None),
    ],
)
def test_setting_is_parsed_as_path_and_yaml_value(setting: str, path: list[str], value: object) -> None:
    assert parse_setting(setting) == (path, value)


def test_settings_override_the_profile_and_the_profile_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("seed: 3\nspeech:\n  lora: {rank: 2}\n  epochs: 7\nevaluation: {seed: 1}\n")
    settings = ["speech.lora.alpha=4", "speech.learning_rate=2e-5", "text.source=path:x", "text.source=path:y"]
    config = load_config("p", settings, directory=tmp_path, schema=PIPELINE_CONFIG)
    assert (config.speech.lora.rank, config.speech.lora.alpha, config.speech.epochs) == (2, 4, 7)
    assert config.speech.lora.dropout == EncoderConfig(source="").lora.dropout
    assert config.speech.learning_rate == 2e-5 and config.text.source == "path:y"


def test_profile_can_be_a_user_file(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("gate: {max_ece: off}\nspeech: {extraction: {cache: off}}\n")
    config = load_config(str(own), directory=tmp_path / "elsewhere", schema=PIPELINE_CONFIG)
    assert config.gate.max_ece is False and config.speech.extraction.cache == "off"
    for content, message in (("- 1", "has no sections"), ("a: [", "not readable YAML")):
        own.write_text(content)
        with pytest.raises(UsageError, match=message):
            load_config(str(own), directory=tmp_path, schema=PIPELINE_CONFIG)
    with pytest.raises(UsageError, match="there is no profile at"):
        load_config(str(tmp_path / "nothing.yaml"), directory=tmp_path, schema=PIPELINE_CONFIG)


def test_top_level_seed_applies_to_sections_without_a_seed(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("seed: 3\nevaluation: {seed: 1}\n")
    config = load_config("p", ["mixture.seed=0"], directory=tmp_path, schema=PIPELINE_CONFIG)
    assert (config.data.seed, config.speech.seed, config.text.seed) == (3, 3, 3)
    assert (config.evaluation.seed, config.mixture.seed) == (1, 0)
    assert load_config("p", ["seed=9"], directory=tmp_path, schema=PIPELINE_CONFIG).speech.seed == 9


def test_empty_profile_equals_the_published_configuration(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("")
    config = load_config("p", directory=tmp_path, schema=PIPELINE_CONFIG)
    assert config == PIPELINE_CONFIG()
    mixture = config.mixture
    assert (mixture.hidden, mixture.gru_layers, mixture.kernels, mixture.fusion_width) == (512, 3, [1, 3, 5], 1024)
    assert (mixture.gate_temperature, mixture.focal_gamma, mixture.contrastive_weight) == (2.0, 3.0, 2.0)


def test_section_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GateConfig().min_weighted_f1 = 0.1  # type: ignore[misc]


def test_each_count_and_rate_setting_is_bounded() -> None:
    """A count or a rate without bounds is a crash in the middle of a run."""
    for section in (MixtureConfig, EncoderConfig):
        for name, field in section.model_fields.items():
            if field.annotation in (int, float):
                assert field.metadata, f"{section.__name__}.{name}"


def test_suggestions_are_close_matches_or_all_names() -> None:
    assert one_of(["a"]) == "'a'" and one_of(["a", "b", "c"]) == "'a', 'b' or 'c'"
    assert did_you_mean("tset", ["train", "test"]) == "; did you mean 'test'?"
    assert did_you_mean("x", ["b", "a"]) == "; valid names: a, b."
    assert did_you_mean("x", [f"name{number:02}" for number in range(23)]).endswith("name18, name19 and 3 more.")
