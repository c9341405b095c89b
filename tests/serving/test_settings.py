"""Every option of the predictor exists in all places: command line, environment, profile, manifest, reference and metadata."""

from __future__ import annotations

import asyncio
import re
from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from mistere.common.errors import ExitCode, UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.config.description import settings_of
from mistere.config.predictor import PredictorConfig
from mistere.config.predictor_options import Option, as_text, options, rendered, resolve, stated
from mistere.model.inference import load_bundle
from mistere.predictor.errors import RequestError
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.scheduling.observer_thread import CLOSE_SECONDS
from mistere.predictor.server import main
from mistere.predictor.settings import MIB, Limits, ServerSettings, parse_arguments
from mistere.predictor.tracing.span_sender import CLOSE_SECONDS as TRACE_SECONDS
from mistere.serving.kserve.inference_service import inference_service, revision_of
from mistere.serving.kserve.supported_settings import check_cluster_support
from pipelines.profiles import load_profile
from tests.serving.conftest import ROOT
from tests.unit.repository.test_docs import command_of, reference

GUIDE = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| [^|]+ \| ([\d.]+)(?: MiB| s)? \| `(--[a-z-]+)` \|$", re.MULTILINE)
NAMES = list(options())
DIGEST = "a" * 64
OTHER: dict[str, Any] = {
    "audio_uri_prefixes": ("s3://calls/in/", "s3://calls/out/"),
    "traffic_store": "s3://models/traffic",
    "sample_store": "s3://models/kept",
    "sample_encryption": "aws:kms:alias/mistere",
    "request_log_store": "s3://models/log",
    "shadow": "http://shadow:8080",
    "shadow_share": 0.5,
    "trace_endpoint": "http://collector:4318/v1/traces",
    "trace_share": 0.25,
    "stream_origins": ("https://calls.example.org",),
}
"""Values of options that are neither a flag nor one of several words, nor a number that may be larger by 1."""


def other_value(option: Option) -> Any:
    """A value that is not the default."""
    if option.is_flag:
        return not option.default
    if option.name in OTHER:
        return OTHER[option.name]
    if isinstance(option.default, int | float):
        return option.default + 1
    return next(
        word for word in get_args(PredictorConfig.model_fields[option.name].annotation) if word != option.default
    )


def manifest(predictor: PredictorConfig, **settings: Any) -> dict[str, Any]:
    config = DeploymentConfig(mode="standard", predictor=predictor, **settings)
    return inference_service(f"s3://models/artifacts/ModelBundle/{DIGEST}", DIGEST, config, "registry/predictor")


def arguments_of(service: dict[str, Any]) -> list[str]:
    arguments: list[str] = service["spec"]["predictor"]["containers"][0]["args"]
    return arguments


def test_without_arguments_the_settings_are_the_defaults() -> None:
    assert parse_arguments(["bundle"], {}) == ServerSettings("bundle")
    assert ServerSettings("bundle").limits == Limits()
    assert rendered(PredictorConfig()) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_option_has_the_same_value_wherever_it_is_set(name: str) -> None:
    option = options()[name]
    value = other_value(option)
    expected = PredictorConfig.model_validate({name: value})
    profile = load_profile("tiny", [f"{option.setting}={list(value) if option.is_list else value}"]).deployment
    assert profile.predictor == expected
    service = manifest(expected)
    assert parse_arguments(arguments_of(service), {}).options == expected, "the pod has another value than the profile"
    assert parse_arguments(["bundle"], {option.variable: as_text(value)}).options == expected
    assert parse_arguments(
        ["bundle", *option.arguments(option.default)], {option.variable: as_text(value)}
    ).options == (expected if option.is_list else PredictorConfig()), "the argument takes precedence over the variable"
    assert revision_of(service) != revision_of(manifest(PredictorConfig()))
    assert stated(expected).get(f"option.{name}") == (as_text(value) if option.is_stated else None)


def test_the_commands_and_the_reference_have_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    serve, _ = command_of(["serve"])
    served = {name for parameter in serve.params for name in (*parameter.opts, *parameter.secondary_opts)}
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    page, environment, text = reference().predictor(), reference().environment(), capsys.readouterr().out
    described = {each.name for each in settings_of(DeploymentConfig, "deployment.")}
    for option in options().values():
        assert option.argument in served and f"\n  {option.argument}" in text
        assert (
            f"`{option.argument}`" in page and f"`{option.variable}`" in page and f"`{option.variable}`" in environment
        )
        assert option.setting in described and option.meaning
        assert not option.is_flag or option.negation in served


def test_default_options_leave_the_manifest_as_it_is() -> None:
    ports = ["--http-port", "8080", "--grpc-port", "8081", "--model-name", "mistere"]
    assert arguments_of(manifest(PredictorConfig()))[1:] == ports
    assert arguments_of(manifest(PredictorConfig(), traffic=True))[1:] == [*ports, "--traffic-store", "bundle"]


def test_the_time_to_stop_covers_draining_and_requests_in_flight() -> None:
    pod = manifest(PredictorConfig(drain_seconds=20.5, grace_seconds=100))["spec"]["predictor"]
    assert pod["terminationGracePeriodSeconds"] == 21 + 100 + 13
    assert CLOSE_SECONDS + TRACE_SECONDS + 2 < 13, "what is written last, whatever hangs"


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["--max-utterances", "nan"], {}, "--max-utterances: 'nan' is not accepted: it takes integer (> 0, ≤ 100000)."),
        (["--max-seconds", "inf"], {}, "--max-seconds: 'inf' is not accepted: it takes number (> 0, ≤ 3600)."),
        (["--audio-uri-prefix", "http://x/"], {}, "is not of the form s3://bucket/prefix/"),
        (["--shadow", "http://user@x:80"], {}, "is neither local nor of the form http://host:port"),
        (["--shadow", "file:///etc/passwd"], {}, "is neither local nor of the form http://host:port"),
        (["--device", "tpu"], {}, "--device: 'tpu' is not accepted: it takes auto, cpu, cuda."),
        (
            ["--int8", "--device", "cuda"],
            {},
            "--int8, --device: int8 is for a CPU: leave it out, or set device to cpu.",
        ),
        (
            [],
            {"MISTERE_PREDICTOR_INT8": "maybe"},
            "MISTERE_PREDICTOR_INT8: 'maybe' is not accepted: it takes true, false.",
        ),
        ([], {"MISTERE_PREDICTOR_MAX_UTERANCES": "9"}, "did you mean 'MISTERE_PREDICTOR_MAX_UTTERANCES'?"),
        (
            [],
            {"MISTERE_PREDICTOR_AUDIO_URI_PREFIXES": "s3://a/,b"},
            "MISTERE_PREDICTOR_AUDIO_URI_PREFIXES: 'b' is not accepted",
        ),
        (["--http-port", "8081"], {}, "--http-port and --grpc-port must differ"),
        (["--max-utterance", "5"], {}, "unrecognized arguments: --max-utterance 5"),
    ],
)
def test_a_wrong_value_is_one_sentence_and_a_usage_error(
    arguments: list[str],
    variables: dict[str, str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["bundle", *arguments]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert expected in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x", "1e400", "1" * 5000])
@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(options()[name].default, int | float)])
def test_only_finite_numbers_within_the_bounds_are_accepted(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=options()[name].variable):
        resolve({}, {options()[name].variable: value})


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Calls.Example.org", "https://calls.example.org"),
        ("HTTPS://a.b:443", "https://a.b"),
        ("http://a.b:80", "http://a.b"),
        ("http://a.b:443", "http://a.b:443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://localhost:03000", "https://localhost:3000"),
    ],
)
def test_origins_are_compared_as_browsers_send_them(text: str, origin: str) -> None:
    assert resolve({}, {"MISTERE_PREDICTOR_STREAM_ORIGINS": text}).stream_origins == (origin,)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://a?x",
            "https://a?",
            "https://a#",
            "https://a/",
            "https://me@a",
            "https://",
            "https://:8",
            "https://a:x",
        ),
        *("https://a:99999", "https://münchen.de", "https://a\\b", "https://a\0", "ftp://a", "a.b"),
    ],
)
def test_origins_that_no_browser_sends_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="MISTERE_PREDICTOR_STREAM_ORIGINS"):
        resolve({}, {"MISTERE_PREDICTOR_STREAM_ORIGINS": text})


@pytest.mark.parametrize("end", ["?", "#", "/?", "/#", "?a", "\0", "\x1b", "\x7f", " x", "/\u202e"])
@pytest.mark.parametrize("option", ["trace_endpoint", "shadow"])
def test_addresses_end_with_their_path(option: str, end: str) -> None:
    """A lone ``?`` or ``#`` would take the path that is added."""
    with pytest.raises(UsageError, match=f"MISTERE_PREDICTOR_{option.upper()}"):
        resolve({}, {f"MISTERE_PREDICTOR_{option.upper()}": f"http://h:4318{end}"})


def test_variables_of_kubernetes_services_are_no_options() -> None:
    names = [
        "PORT",
        "SERVICE_HOST",
        "SERVICE_PORT_HTTP",
        "PORT_80_TCP_ADDR",
        "DEFAULT_00001_SERVICE_PORT",
        "DEFAULT_PORT",
    ]
    assert resolve({}, {f"MISTERE_PREDICTOR_{name}": "tcp://10.0.0.1:80" for name in names}) == PredictorConfig()
    assert [name for name in NAMES if re.search(r"(^|_)(port|host)$", name)] == []


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"MISTERE_PREDICTOR_MAX_UTTERANCES": "0"}, "MISTERE_PREDICTOR_MAX_UTTERANCES: '0' is not accepted"),
        ({"MISTERE_PREDICTOR_UTTERANCES": "9"}, "MISTERE_PREDICTOR_UTTERANCES is no option of the predictor"),
    ],
)
def test_wrong_variables_are_rejected_before_they_are_deployed(env: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        DeploymentConfig.model_validate({"env": env})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cuda"}, "set deployment.gpus"),
        ({"traffic_store": "/srv/traffic"}, "is a folder, which ends with its pod"),
        ({"shadow": "local"}, "set deployment.shadow=true"),
        (
            {
                "grace_seconds": 300,
                "max_request_mib": 256,
                "dtype": "bfloat16",
                "stream_origins": "https://a,https://b",
            },
            "",
        ),
    ],
)
def test_variables_of_the_pods_count_as_settings(settings: dict[str, Any], expected: str) -> None:
    """What follows from an option follows from its variable: checks, memory, tolerance, the time that a pod has to end."""
    env: dict[str, Any] = {options()[name].variable: value for name, value in settings.items()}
    reference = {"secret": "own", "key": "days"}
    given = {"mode": "standard", "env": {**env, "NO_PROXY": ".svc", "MISTERE_PREDICTOR_SAMPLE_DAYS": reference}}
    config = DeploymentConfig.model_validate(given)
    origins = {"stream_origins": ("https://a", "https://b")} if "stream_origins" in settings else {}
    assert config.predictor == PredictorConfig.model_validate({**settings, **origins})
    assert set(config.env) == {"NO_PROXY", "MISTERE_PREDICTOR_SAMPLE_DAYS"}
    assert DeploymentConfig.model_validate(config.model_dump(mode="json")) == config
    if expected:
        with pytest.raises(UsageError, match=expected):
            check_cluster_support(config)
    else:
        check_cluster_support(config)


@pytest.mark.parametrize(
    ("settings", "is_exact"),
    [
        ({}, True),
        ({"dtype": "auto"}, True),
        ({"dtype": "auto", "gpus": 1}, False),
        ({"dtype": "auto", "gpus": 1, "device": "cpu"}, True),
        ({"dtype": "auto", "mode": "local"}, False),
        ({"dtype": "auto", "mode": "local", "device": "cpu"}, True),
        ({"gpus": 1}, True),
        ({"dtype": "bfloat16"}, False),
        ({"dtype": "auto", "int8": True}, False),
    ],
)
def test_automatic_precision_is_exact_where_there_is_no_gpu(settings: dict[str, Any], is_exact: bool) -> None:
    own = {name: settings[name] for name in ("mode", "gpus") if name in settings}
    predictor = {name: value for name, value in settings.items() if name not in own}
    assert DeploymentConfig.model_validate({"mode": "standard", **own, "predictor": predictor}).is_exact is is_exact


def test_a_setting_takes_precedence_over_a_variable_of_the_pods() -> None:
    env = {"MISTERE_PREDICTOR_MAX_UTTERANCES": 300, "MISTERE_PREDICTOR_INT8": "true"}
    config = DeploymentConfig.model_validate({"env": env, "predictor": {"max_utterances": 200}})
    assert config.predictor.max_utterances == 200 and config.predictor.int8
    with pytest.raises(ValueError, match="int8 is for a CPU"):
        DeploymentConfig.model_validate({"env": env, "predictor": {"device": "cuda"}})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"predictor": {"traffic_store": "/srv/traffic"}},
            "traffic_store=/srv/traffic is a folder, which ends with its pod",
        ),
        ({"predictor": {"sample_store": "/srv/kept"}}, "sample_store=/srv/kept is a folder, which ends with its pod"),
        ({"predictor": {"device": "cuda"}}, "set deployment.gpus"),
        ({"predictor": {"shadow": "local"}}, "set deployment.shadow=true"),
        ({"predictor": {"int8": True}, "gpus": 1}, "set deployment.gpus=0"),
    ],
)
def test_options_that_no_pod_can_have_are_rejected(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        check_cluster_support(DeploymentConfig.model_validate({"mode": "standard", **settings}))


def test_more_utterances_than_by_default_can_be_asked_where_the_profile_allows_them(bundle: str) -> None:
    service = manifest(PredictorConfig(max_utterances=300))
    allowed = EmotionPredictor(parse_arguments([bundle, *arguments_of(service)[1:]], {}), load_bundle)
    default = EmotionPredictor(parse_arguments([bundle], {}), load_bundle)
    body = {"instances": [{"utterances": [{"text": f"Turn {number}."} for number in range(200)]}]}
    for predictor in (allowed, default):
        predictor.load()
    try:
        answer: Any = asyncio.run(allowed.predict(body))
        assert len(answer["predictions"][0]["label"]) == 200
        with pytest.raises(RequestError, match="may hold 128 utterances"):
            asyncio.run(default.predict(body))
    finally:
        allowed.close()
        default.close()


def test_limits_are_options_in_the_units_of_the_server() -> None:
    given = PredictorConfig(max_request_mib=1.5, batch_hold_ms=2.5, max_utterances=300)
    limits = Limits.of(given)
    assert (limits.request_bytes, limits.batch_hold_seconds, limits.utterances) == (3 * MIB // 2, 0.0025, 300)
    assert limits.stated()["limit.utterances"] == "300"


def test_a_shadow_takes_copies_that_hold_what_the_client_sent_before() -> None:
    own = Limits.of(PredictorConfig(max_total_tokens=100, max_utterances=300))
    shadow = Limits.of(PredictorConfig(max_total_tokens=100, max_utterances=300, copies=True))
    assert (own.request_bytes, own.request_seconds, own.request_tokens) == (8 * MIB, 600, 100)
    assert (shadow.request_bytes, shadow.request_seconds) == (32 * MIB, 300 * 30)
    assert shadow.request_tokens >= shadow.request_bytes
    assert replace(shadow, request_bytes=0, request_seconds=0, request_tokens=0) == replace(
        own, request_bytes=0, request_seconds=0, request_tokens=0
    )
    assert Limits.of(PredictorConfig(max_request_mib=64, copies=True)).request_bytes == 64 * MIB


def test_the_guide_has_every_limit_with_its_default() -> None:
    rows = {name: value for value, name in ROW.findall(GUIDE)}
    arguments = {each.argument: each for each in options().values()}
    assert {name: f"{arguments[name].default:g}" for name in rows} == rows
    section = GUIDE.partition("## Limits of a request")[2].partition("\n## ")[0]
    of_a_request = {each.metadata["option"] for each in fields(Limits) if each.metadata["in_metadata"]}
    assert {name for _, name in ROW.findall(section)} == {options()[name].argument for name in of_a_request}
    assert [
        each.metadata["option"]
        for each in fields(Limits)
        if f"`{options()[each.metadata['option']].argument}`" not in GUIDE
    ] == []
