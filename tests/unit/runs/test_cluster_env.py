"""``cluster.env`` and ``deployment.env`` take names and references, never the value of a secret."""

from __future__ import annotations

import pytest

from mistere.common.errors import UsageError
from mistere.config.pod_environment import EnvironmentReference
from pipelines.profiles import load_profile


def test_variables_are_texts_or_references() -> None:
    settings = "{HF_TOKEN: {secret: hub, key: token}, NO_PROXY: .svc, AWS_MAX_ATTEMPTS: 5, AWS_USE_FIPS_ENDPOINT: true}"
    env = load_profile("tiny", [f"cluster.env={settings}"]).cluster.env
    assert env == {
        "HF_TOKEN": EnvironmentReference(secret="hub", key="token"),
        "NO_PROXY": ".svc",
        "AWS_MAX_ATTEMPTS": "5",
        "AWS_USE_FIPS_ENDPOINT": "true",
    }


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            "deployment.env={API_TOKEN: hush}",
            "API_TOKEN looks like a secret: write {secret: NAME, key: KEY}, never its value",
        ),
        ("deployment.env={API_TOKEN: {config_map: hub, key: token}}", "API_TOKEN looks like a secret"),
        ("deployment.env={AWS_CA_BUNDLE: ca.crt}", "AWS_CA_BUNDLE is the path of a file in the pod"),
        (
            "cluster.env={HF_TOKEN: hf_abcdefgh}",
            "HF_TOKEN is a secret: write {secret: NAME, key: KEY}, never its value",
        ),
        ("cluster.env={HF_TOKEN: {config_map: hub, key: token}}", "HF_TOKEN is a secret"),
        ("cluster.env={HTTPS_PROXY: 'http://me:hush@proxy:3128'}", "contains credentials"),
        ("cluster.env={HTTP_PROXI: 'http://proxy:3128'}", "HTTP_PROXI is not set in pods; did you mean 'HTTP_PROXY'"),
        ("cluster.env={AWS_SECRET_ACCESS_KEY: hush}", "AWS_SECRET_ACCESS_KEY is not set in pods"),
        ("cluster.env={SSL_CERT_FILE: ca.crt}", "SSL_CERT_FILE is the path of a file in the pod"),
        ("cluster.env={SSL_CERT_FILE: {secret: a, config_map: b, key: c}}", "name either a secret or a config_map"),
    ],
)
def test_other_variables_and_values_of_secrets_are_refused(env: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("tiny", [env])
    assert sentence in str(caught.value) and "hush" not in str(caught.value) and "abcdefgh" not in str(caught.value)


def test_the_predictor_gets_the_variables_of_the_steps() -> None:
    config = load_profile(
        "tiny", ["cluster.env={HF_TOKEN: {secret: hub, key: token}, NO_PROXY: .svc}", "deployment.env.NO_PROXY=.local"]
    )
    assert config.deployment.env == {"HF_TOKEN": EnvironmentReference(secret="hub", key="token"), "NO_PROXY": ".local"}
    assert config.cluster.env["NO_PROXY"] == ".svc"
    assert load_profile("tiny").deployment.env == {}
