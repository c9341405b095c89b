"""The whole configuration: defaults, a profile's differences, and what was set by hand.

A profile (``pipelines/profiles/*.yaml``) holds only what differs from the defaults; ``--set section.key=value`` differs
from the profile. :func:`load_config` puts the three together and answers a wrong name with the did_you_mean right one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import Field, ValidationError, create_model

from mistere.common.errors import UsageError
from mistere.common.names import shown
from mistere.common.parsing.documents import ParseError, load_yaml, read_yaml
from mistere.common.suggestions import did_you_mean, one_of
from mistere.config.base import Section, SeededSection
from mistere.config.cluster import ClusterConfig
from mistere.config.data import DataConfig
from mistere.config.deployment import DeploymentConfig
from mistere.config.description import full_names, names_of
from mistere.config.distillation import DistillationConfig
from mistere.config.encoder import EncoderConfig, SpeechConfig, TextConfig
from mistere.config.evaluation import EvaluationConfig
from mistere.config.gate import RuleThresholds
from mistere.config.mixture import MixtureConfig
from mistere.config.modalities import DEFAULT_MODALITIES, modalities_of, name_problem, sections_with
from mistere.config.monitoring import MonitoringConfig
from mistere.config.registry import RegistryConfig
from mistere.config.scoring import ScoringConfig
from mistere.config.validation import ValidationSettings


class Config(Section):
    """The whole configuration; each attribute is the section of one stage (or of two that share it), or of a modality.

    :func:`with_modalities` adds the sections of further modalities. The gate's rules and the validation's expectations declare their own settings, in ``components/``:
    :data:`pipelines.profiles.PIPELINE_CONFIG` is this class with them.

    Attributes:
        modalities: names of the modalities, in the order of the experts. In a profile, a mapping of each name to its section; a list
            chooses among those that have one.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    data: DataConfig = DataConfig()
    validation: ValidationSettings = ValidationSettings()
    speech: SpeechConfig = SpeechConfig()
    text: TextConfig = TextConfig()
    mixture: MixtureConfig = MixtureConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: RuleThresholds = RuleThresholds()
    registry: RegistryConfig = RegistryConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    scoring: ScoringConfig = ScoringConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    distillation: DistillationConfig = DistillationConfig()
    cluster: ClusterConfig = ClusterConfig()

    def section(self, name: str) -> dict[str, Any]:
        """One section as plain data without null values: KFP drops null parameters."""
        value: Section = getattr(self, name)
        return value.model_dump(mode="json", exclude_none=True)

    @property
    def sections(self) -> tuple[str, ...]:
        """The names of the sections that are parameters of the retraining pipeline; ``cluster`` is compiled into it, and ``scoring``, ``monitoring`` and ``distillation`` are not its own."""
        return sections_with(self.modalities)

    def parameters(self) -> dict[str, dict[str, Any]]:
        """All sections that are parameters of the pipeline, as plain data."""
        return {name: self.section(name) for name in self.sections}

    def encoder(self, modality: str) -> EncoderConfig:
        """The section of a modality."""
        section: EncoderConfig = getattr(self, modality)
        return section

    def encoders(self) -> dict[str, EncoderConfig]:
        """The sections of all modalities, by name."""
        return {name: self.encoder(name) for name in self.modalities}


C = TypeVar("C", bound=Config)

_MOST_SUGGESTED = 4


def parse_setting(setting: str, origin: str = "--set") -> tuple[list[str], Any]:
    """Split ``section.key=value``; the value is parsed as YAML: ``0.4`` is a number, ``[1, 3]`` a list.

    Args:
        setting: the text.
        origin: the option or the entry of a file that it comes from, for messages.

    Raises:
        UsageError: there is no ``=``, or the value is not valid YAML.
    """
    path, separator, raw = setting.partition("=")
    if not separator or not path.strip():
        raise UsageError(
            f"{origin} {setting}: write it as section.key=value, for example {origin} gate.min_weighted_f1=0.5."
        )
    try:
        return path.strip().split("."), load_yaml(raw)
    except ParseError as error:
        raise UsageError(f"{origin} {shown(setting)[1:-1]}: the value is not valid YAML ({error}).") from error


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            base[key] = _merge(dict(base[key]), value)  # a copy: an alias in YAML is one dict in two places
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
    return base


def _explain(
    error: ValidationError, where: str, schema: type[Config], sections: Collection[str] | None = None
) -> UsageError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner: Any = schema
        for part in location[:-1]:
            owner = get_args(owner)[1] if get_origin(owner) is dict else owner.model_fields[part].annotation
        name = ".".join(location)
        return UsageError(f"{where}: unknown setting {name!r}{_suggestion(name, owner, schema, sections)}")
    if first["type"] == "missing":
        return UsageError(f"{where}: {'.'.join(location)} is missing: set it.")
    found = "a private key" if "PRIVATE KEY" in str(first["input"]) else shown(first["input"])
    return UsageError(
        f"{where}: {'.'.join(_named(location, schema))}: {first['msg'].removeprefix('Value error, ')} (found {found})."
    )


def _suggestion(name: str, owner: type[Section], schema: type[Config], sections: Collection[str] | None) -> str:
    """What was probably meant: the setting of this name in another section, else a similar one here, else a similar one elsewhere."""
    known = [each for each in names_of(schema) if sections is None or each.partition(".")[0] in sections]
    elsewhere = full_names(name, known)
    here = did_you_mean(name.rpartition(".")[2], owner.model_fields)
    exact = [each for each in elsewhere if each.rpartition(".")[2] == name.rpartition(".")[2]]
    if exact or (elsewhere and "did you mean" not in here):
        return f"; did you mean {one_of(elsewhere[:_MOST_SUGGESTED])}?"
    return here


def _named(location: list[str], schema: type[Config]) -> list[str]:
    """The setting's name in the location of an error; pydantic appends the type that it tried."""
    owner: Any = schema
    named: list[str] = []
    for part in location:
        fields = getattr(owner, "model_fields", {})
        if get_origin(owner) is dict:
            owner = get_args(owner)[1]
        elif part in fields:
            owner = fields[part].annotation
        else:
            break
        named.append(part)
    return named or location


def available_profiles(directory: Path) -> list[str]:
    """Names of the profiles in a directory."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def _read_profile(profile: str, directory: Path) -> dict[str, Any]:
    """A profile by its name, or from a path to a YAML file."""
    path = directory / f"{profile}.yaml"
    if profile.endswith((".yaml", ".yml")):
        path = Path(profile)
        if not path.is_file():
            raise UsageError(
                f"there is no profile at {profile}: name a file, or one of {', '.join(available_profiles(directory))}."
            )
    elif not path.is_file():
        raise UsageError(f"unknown profile {profile!r}{did_you_mean(profile, available_profiles(directory))}")
    try:
        values = read_yaml(path)
    except (ParseError, OSError) as error:
        raise UsageError(f"profile {profile} is not readable YAML ({error}).") from error
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"profile {profile} has no sections: write it like pipelines/profiles/sample.yaml.")
    return values or {}


def load_config(
    profile: str,
    settings: Iterable[str] = (),
    *,
    directory: Path,
    schema: type[C],
    origin: str = "--set",
    sections: Collection[str] | None = None,
) -> C:
    """Apply the profile and then ``--set`` to the defaults; sections without a seed get the global one.

    The variables of ``cluster.env`` are added to those of ``deployment.env``.

    Args:
        profile: a name, or the path of a YAML file.
        settings: ``section.key=value``.
        directory: the folder of the named profiles.
        schema: :class:`Config`, or the subclass with the settings that stages declare.
        origin: the option or the entry of a file that the settings come from, for messages.
        sections: what ``settings`` may change, because the command uses nothing else; None for everything.

    Raises:
        UsageError: an unknown profile or setting (with a suggestion), a setting that the command does not use, or an invalid value.
    """
    values = _read_profile(profile, directory)
    where = f"profile {profile}"
    for setting in settings:
        keys, value = parse_setting(setting, origin)
        if sections is not None and keys[0] in schema.model_fields and keys[0] not in sections:
            raise UsageError(
                f"{origin} {'.'.join(keys)}: this command uses only {', '.join(sections)}: leave the setting out."
            )
        node: dict[str, Any] = {}
        leaf = node
        for key in keys[:-1]:
            leaf = leaf.setdefault(key, {})
        leaf[keys[-1]] = value
        replaces = (
            isinstance(value, Mapping) and "modalities" not in values
        )  # the profile has sections without naming them
        if keys == ["modalities"] and (isinstance(value, list) or replaces):
            _choose_modalities(values, list(value), where)
        _merge(values, node)
        where = f"profile {profile} with {origin}"
    config = _validated(values, schema, where, sections)
    for name in (*config.sections, "distillation"):
        section = getattr(config, name)
        if isinstance(section, SeededSection) and "seed" not in section.model_fields_set:
            config = config.model_copy(update={name: section.model_copy(update={"seed": config.seed})})
    # The predictor needs the same proxies and authorities as the steps; `deployment` is what is recorded for later releases.
    env = {**config.cluster.env, **config.deployment.env}
    return config.model_copy(update={"deployment": config.deployment.model_copy(update={"env": env})})


def complete_config(compiled: Mapping[str, Any], given: Mapping[str, Any], schema: type[C]) -> C:
    """Complete the sections that a run was given with those of the profile that its pipeline was compiled from.

    Args:
        compiled: the complete sections of the profile, by name.
        given: sections, of which each may name only some of its settings.
        schema: :class:`Config` with the settings that stages declare.

    Raises:
        UsageError: an unknown setting (with a suggestion), or an invalid value.
    """
    values: dict[str, Any] = {}
    for sections in (compiled, given):
        _merge(values, sections)
    names = modalities_of(values)
    if set(names) <= set(
        given
    ):  # the parameters are in order; Kubeflow Pipelines shuffles a mapping, such as what was compiled
        names = modalities_of(given)
    return _validated({**values, "modalities": list(names)}, schema, "the run's parameters")


def _validated(values: dict[str, Any], schema: type[C], where: str, sections: Collection[str] | None = None) -> C:
    """The configuration that values describe, with a section for each of their modalities."""
    chosen = isinstance(values.get("modalities"), list)
    names = _gather_modalities(values, where)
    schema = with_modalities(schema, names)
    unused = [name for name in DEFAULT_MODALITIES if name in values and name not in names]
    if chosen:
        for name in unused:
            del values[name]
    elif unused:
        raise UsageError(
            f"{where}: unknown setting {unused[0]!r}: the run's modalities are {', '.join(names)}; name {unused[0]} under "
            "`modalities`, or leave its settings out."
        )
    if missing := [name for name in names if name not in values and name not in DEFAULT_MODALITIES]:
        known = [name for name in modalities_of(values) if name in values] or DEFAULT_MODALITIES
        raise UsageError(
            f"{where}: modalities: {shown(missing[0])} has no settings: give it a section with its `source` under `modalities` in a "
            f"profile, or choose from {', '.join(known)}."
        )
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where, schema, sections) from error


def _gather_modalities(values: dict[str, Any], where: str) -> tuple[str, ...]:
    """Move the sections below ``modalities`` beside the others; what a section of the same name says goes first.

    Returns:
        The names of the modalities.

    Raises:
        UsageError: it is neither a mapping nor a list, or a name is not allowed.
    """
    given = values.get("modalities", DEFAULT_MODALITIES)
    if not isinstance(given, Mapping | list | tuple) or not given:
        raise UsageError(f"{where}: modalities: name each modality with its section (found {shown(given)}).")
    for name in given:
        if problem := name_problem(name):
            raise UsageError(f"{where}: modalities: {shown(name)} {problem}: choose another name.")
        if isinstance(given, Mapping):
            section = given[name] if given[name] is not None else {}
            if not isinstance(section, Mapping):
                raise UsageError(f"{where}: modalities.{name}: write its settings below it (found {shown(section)}).")
            values[name] = _merge(dict(section), values.get(name) or {})
    values["modalities"] = list(given)
    return tuple(given)


def _choose_modalities(values: dict[str, Any], chosen: Sequence[Any], where: str) -> None:
    """Leave out the sections of a profile's modalities that a list of names does not choose.

    Raises:
        UsageError: the profile's own modalities are not allowed.
    """
    for name in _gather_modalities(values, where):
        if name not in chosen:
            values.pop(name, None)


@cache
def with_modalities(schema: type[C], modalities: Sequence[str]) -> type[C]:
    """The configuration with a section for each modality; those that it lacks need a ``source``."""
    further: dict[str, Any] = {name: (EncoderConfig, ...) for name in modalities if name not in schema.model_fields}
    return create_model(schema.__name__, __base__=schema, **further) if further else schema
