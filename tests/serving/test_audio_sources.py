"""Audio by S3 location: the allowed ones. And the cache of recordings and vectors."""

from __future__ import annotations

from typing import Any

import pytest

from mistere.predictor.audio.sources import AudioReader
from mistere.predictor.errors import RequestError
from mistere.predictor.sized_cache import SizedCache


def test_a_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    cache: SizedCache[str, bytes] = SizedCache(10)
    cache.put("a", b"aaaa", 4)
    cache.put("b", b"bbbb", 4)
    assert cache.get("a") == b"aaaa"
    cache.put("c", b"cccc", 4)
    assert cache.get("b") is None
    cache.put("c", b"cccc", 4)  # again: it counts once
    assert cache.get("a") == b"aaaa"
    cache.put("x", b"x" * 11, 11)
    assert cache.get("c") == b"cccc" and cache.get("x") is None
    disabled: SizedCache[str, bytes] = SizedCache(0)
    disabled.put("a", b"a", 1)
    assert disabled.get("a") is None


@pytest.mark.parametrize(
    "uri",
    [
        "http://bucket/calls/a.wav",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "s3://other/calls/a.wav",
        "s3://bucket/private/a.wav",
        "s3://bucket/callsign/a.wav",
        "s3://bucket/calls/",
        "s3://bucket/calls/../private/a.wav",
        "s3://bucket/calls//a.wav",
        "S3://bucket/calls/a.wav",
        "s3://bucket/calls/a\n.wav",
    ],
)
def test_other_locations_are_rejected(uri: str) -> None:
    with pytest.raises(RequestError) as refused:
        AudioReader(["s3://bucket/calls/"], 100).read({3: uri})
    assert refused.value.code == 400
    assert "utterance 3" in refused.value.message


def test_reading_from_s3(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    boto3: Any = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="calls/a.wav", Body=b"sound")
        reader = AudioReader(["s3://bucket/calls/"], 8)
        assert reader.read({0: "s3://bucket/calls/a.wav"}) == {0: b"sound"}
        with pytest.raises(RequestError) as missing:
            reader.read({1: "s3://bucket/calls/b.wav request=7 \u00e4"})
        assert missing.value.code == 400
        assert "s3://bucket/calls/b.wav%20request%3D7%20%C3%A4" in caplog.text and "request=" not in caplog.text
        with pytest.raises(RequestError) as large:
            reader.read({0: "s3://bucket/calls/a.wav", 1: "s3://bucket/calls/a.wav"})
        assert large.value.code == 413
