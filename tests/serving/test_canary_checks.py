"""The live checks of a canary: which differences send a candidate back, and which chance explains."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
import pytest

from mistere.common.errors import MistereError
from mistere.config.canary import CanaryConfig
from mistere.serving.kserve.canary.checks import error_problem, problem, reference_after, summary
from mistere.serving.kserve.canary.live_figures import LiveCounter, LiveFigures, samples
from tests.serving.conftest import Server, Utterance

CONFIG = CanaryConfig()
INF = float("inf")


def figures(requests: int = 1000, errors: int = 0, slow: int = 0, anger: float = 0.3, refused: int = 0) -> LiveFigures:
    """``slow`` of the requests take up to 1 s, the others up to 50 ms."""
    labels = {"anger": round(requests * anger), "joy": requests - round(requests * anger)}
    seconds = {0.025: 0, 0.05: requests - slow, 0.5: 0, 1.0: slow, INF: 0}
    return LiveFigures(requests + refused, requests, errors, refused, seconds=seconds, labels=labels)


def left(requests: int, share: float) -> LiveFigures:
    """Requests of which a share ended without an answer, because the client had left."""
    gone = round(requests * share)
    return replace(figures(requests - gone), requests=requests, left=gone)


def long_answers(requests: int, *, longer: int) -> LiveFigures:
    """Answers of 5 to 10 s, and some above the last bucket of KServe's histogram."""
    return replace(figures(requests), seconds={5.0: 0, 10.0: requests - longer, INF: longer})


@pytest.mark.parametrize(
    ("own", "deployed", "expected"),
    [
        (figures(), figures(), ""),
        (figures(100, errors=2), figures(), ""),
        (
            figures(100, errors=3),
            figures(),
            "3.0 % of its 100 requests ended in an error, 0.0 % of the deployed version's",
        ),
        (figures(100, errors=3), figures(errors=30), ""),
        (figures(10, errors=3), figures(5), "30.0 % of its 10 requests"),
        (figures(slow=30), figures(), "99th percentile of its time is"),
        (figures(slow=30), figures(slow=30), ""),
        (figures(slow=11), figures(), ""),
        (figures(99, slow=30), figures(), ""),
        (figures(anger=0.6), figures(), "anger is 60 % instead of 30 %"),
        (figures(anger=0.4), figures(), ""),
        (figures(100, anger=0.5), figures(100), ""),
        (figures(1000, anger=0.5), figures(1000), "anger is 50 % instead of 30 %"),
        (figures(0, refused=40), figures(50), "it refused 100.0 % of its 40 requests, the deployed version 0.0 %"),
        (figures(50, refused=50), figures(500, refused=500), ""),
        (figures(100, refused=3), figures(1000, refused=30), ""),
        (figures(0, refused=40), figures(0), ""),
        (replace(figures(2000, anger=0.9), answered=20), figures(), ""),
        (
            left(1000, 1.0),
            figures(),
            "the clients of 100.0 % of its 1000 requests left before the answer, of the deployed version's 0.0 %",
        ),
        (left(20, 1.0), figures(180), "the clients of 100.0 % of its 20 requests left"),
        (left(100, 0.04), left(1000, 0.03), ""),
        (left(1000, 1.0), left(1000, 1.0), ""),
        (LiveFigures(requests=1000), figures(), "it answered none of its 1000 requests"),
        (LiveFigures(requests=1000), LiveFigures(requests=1000), ""),
        (
            long_answers(1000, longer=1000),
            long_answers(1000, longer=0),
            "100.0 % of its answers took longer than 10 s, 0.0 % of the",
        ),
        (
            long_answers(1000, longer=1000),
            long_answers(1000, longer=200),
            "100.0 % of its answers took longer than 10 s, 20.0 % of the",
        ),
        (long_answers(1000, longer=9), long_answers(9000, longer=9), ""),
        (long_answers(300, longer=60), long_answers(1000, longer=200), ""),
    ],
)
def test_what_sends_a_candidate_back(own: LiveFigures, deployed: LiveFigures, expected: str) -> None:
    found = problem(own, deployed, CONFIG)
    assert expected in found and bool(expected) == bool(found)


FAILING = replace(figures(), errors=50)


def test_trouble_of_both_versions_sends_no_candidate_back() -> None:
    """An earlier window without the trouble does not count while the deployed version answers in this one, however little."""
    for own, deployed in ((FAILING, replace(figures(60), errors=3)), (left(1000, 0.5), left(60, 0.5))):
        assert not error_problem(own, deployed, CONFIG, figures())
        assert not problem(own, deployed, CONFIG, figures())


def test_an_earlier_window_counts_where_the_deployed_version_gets_too_little() -> None:
    nothing, slow = LiveFigures(), figures(slow=300)
    assert "ended in an error, 0.0 % of" in error_problem(FAILING, nothing, CONFIG, figures())
    assert not error_problem(FAILING, nothing, CONFIG, FAILING)
    assert "99th percentile" in problem(slow, figures(10), CONFIG, figures())
    assert not problem(slow, figures(10, slow=3), CONFIG, slow)
    assert "99th percentile" in problem(slow, figures(), CONFIG, slow), "this window suffices"
    assert reference_after(figures(200), figures(), CONFIG) == figures(200)
    assert reference_after(figures(20), figures(), CONFIG) == reference_after(nothing, figures(), CONFIG) == figures()
    assert reference_after(figures(20), figures(30), CONFIG) == figures(20)


def test_what_is_left_of_earlier_requests_neither_convicts_nor_excuses() -> None:
    """At 100 % the deployed version still answers turns of the streams that began with it."""
    rest, earlier = figures(2), figures()
    for own in (left(2000, 0.4), figures(1200, refused=800), figures(2000, errors=400)):
        assert error_problem(own, rest, CONFIG, earlier) == error_problem(own, LiveFigures(), CONFIG, earlier) != ""
    for own, before in ((figures(errors=30), figures(errors=30)), (left(1000, 0.1), left(1000, 0.1))):
        assert not error_problem(own, rest, CONFIG, before), "no worse than in the window before"
    one_failed = figures(2, errors=1)
    assert error_problem(figures(2000, errors=400), one_failed, CONFIG, earlier)
    assert not error_problem(figures(6, errors=3), one_failed, CONFIG, earlier, least=1), "the next look knows more"


def test_only_errors_count_at_once() -> None:
    assert error_problem(figures(50, errors=5), figures(), CONFIG)
    assert not error_problem(figures(slow=500, anger=0.9), figures(), CONFIG)


@pytest.mark.parametrize(("labels", "requests"), [(2, 100), (6, 200), (27, 1000)])
def test_equal_models_seldom_go_back(labels: int, requests: int) -> None:
    """Two samples from one distribution: 200 windows, at most one goes back."""
    draw = random.Random(0)
    weights = [1 / (rank + 1) for rank in range(labels)]

    def window() -> LiveFigures:
        times = [draw.expovariate(1 / 0.05) for _ in range(requests)]
        edges = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, INF)
        seconds = dict.fromkeys(edges, 0)
        for time in times:
            seconds[next(edge for edge in edges if time <= edge)] += 1
        counts = Counter(map(str, draw.choices(range(labels), weights, k=requests)))
        return LiveFigures(requests, requests, seconds=seconds, labels=counts)

    assert sum(bool(problem(window(), window(), CONFIG)) for _ in range(200)) <= 1


def growing_conversations(draw: random.Random, *, change: float = 0.0) -> tuple[LiveFigures, LiveFigures]:
    """55 conversations of 20 turns, each with its own mix of 7 emotions, sent again with every turn: 110 requests go to the candidate.

    Args:
        draw: randomness.
        change: share of the candidate's turns that it calls anger whatever they are.

    Returns:
        The figures of the candidate and of the deployed version.
    """
    turns = []
    for _ in range(55):
        mix = [draw.gammavariate(weight, 1.0) + 1e-9 for weight in (1.35, 0.54, 0.36, 0.3, 0.24, 0.12, 0.09)]
        turns += draw.choices(range(7), mix, k=20)
    draw.shuffle(turns)
    own = ["anger" if draw.random() < change else str(label) for label in turns[:110]]
    return (
        LiveFigures(110, 110, labels=Counter(own)),
        LiveFigures(990, 990, labels=Counter(map(str, turns[110:]))),
    )


@pytest.mark.long
def test_growing_conversations_are_no_difference() -> None:
    """Even where every difference beyond chance counts, none of 1000 windows of two equal models goes back, and a changed one does."""
    draw, strict = random.Random(0), CanaryConfig(max_label_shift=0.0)
    assert sum(bool(problem(*growing_conversations(draw), strict)) for _ in range(1000)) == 0
    found = [problem(*growing_conversations(draw, change=0.4), CONFIG) for _ in range(50)]
    assert sum("anger is" in one for one in found) == 50


def test_percentiles_are_interpolated() -> None:
    seconds = LiveFigures(100, seconds={0.1: 50, 0.2: 50, INF: 0})
    assert seconds.percentile(0.5) == pytest.approx(0.1) and seconds.percentile(0.75) == pytest.approx(0.15)
    assert seconds.slower_than(0.15) == pytest.approx(25) and seconds.slower_than(0.2) == 0
    assert LiveFigures(1, seconds={0.1: 0, INF: 1}).percentile(0.99) == 0.1
    assert LiveFigures().percentile(0.99) != LiveFigures().percentile(0.99), "NaN of none"


def test_a_window_in_words() -> None:
    assert summary(10, LiveFigures(), figures(), CONFIG) == "10 %: no requests"
    assert summary(10, figures(20), figures(), CONFIG) == "10 %: 20 requests, 0.0 % errors, too few for a comparison"
    assert "99th percentile 50 instead of 50 ms, labels moved by 0.00" in summary(10, figures(), figures(), CONFIG)
    assert summary(10, left(1000, 1.0), left(500, 0.9), CONFIG).endswith(
        "0.0 % errors, 0 answered and 50 by the deployed version, too few for a comparison"
    )


def page(answers: int, errors: int = 0) -> str:
    return (
        "# TYPE mistere_requests counter\n"
        f'mistere_requests_total{{protocol="rest_v2",code="200"}} {answers}\n'
        f'mistere_requests_total{{protocol="rest_v2",code="400"}} 7\n'
        f'mistere_requests_total{{protocol="rest_v2",code="409"}} {answers}\n'
        f'mistere_requests_total{{protocol="rest_v2",code="499"}} {answers}\n'
        f'mistere_requests_total{{protocol="grpc",code="CANCELLED"}} {answers}\n'
        f'mistere_requests_total{{protocol="rest_v1",code="429"}} {errors}\n'
        f'mistere_requests_total{{protocol="grpc",code="INTERNAL"}} {errors}\n'
        f'mistere_requests_total{{protocol="grpc",code="INVALID_ARGUMENT"}} {answers}\n'
        "# TYPE other gauge\nother 3\n"
    )


class Pods:
    """The pods of a revision with a page of metrics each; None for one that does not answer."""

    def __init__(self, **pages: str | None) -> None:
        self.pages = pages

    def pods(self) -> tuple[list[dict[str, Any]], str]:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        return [{"metadata": {"name": name}, "status": ready} for name in self.pages], "1"

    def metrics(self, pod: dict[str, Any]) -> str:
        text = self.pages[pod["metadata"]["name"]]
        if text is None:
            raise MistereError("it does not answer.")
        return text


def test_counters_are_summed_over_pods_and_restarts() -> None:
    pods = Pods(a=page(100), b=page(50), d=None)
    counter = LiveCounter(pods)  # type: ignore[arg-type]
    counter.read()
    assert counter.figures() == LiveFigures()
    pods.pages = {"a": page(110), "b": page(5, errors=1), "c": page(20), "d": page(900)}  # b restarted, c is new
    counter.read()
    pods.pages = {"a": None, "b": page(6, errors=1), "d": page(902)}  # d was there from the beginning
    counter.read()
    found = counter.figures()
    one_kind = 10 + 5 + 20 + 1 + 2
    assert (found.requests, found.errors) == (5 * one_kind + 2 + 14 - 7, 2)
    assert (found.answered, found.refused, found.left) == (one_kind, one_kind + 14 - 7, 2 * one_kind)
    pods.pages = {"a": None}
    counter.read(required=False)
    assert counter.figures() == found
    with pytest.raises(MistereError, match="does not answer"):
        counter.read()


def test_the_counters_are_those_of_the_predictor(server: Server) -> None:
    """A metric that is renamed would make every canary pass without a request."""
    pods = Pods(a=httpx.get(f"{server.url}/metrics").text)
    counter = LiveCounter(pods)  # type: ignore[arg-type]
    counter.read()
    answer = server.client.predict_rest([Utterance("Where were you?"), Utterance("Here.")])
    for body in (b"{", b'{"inputs": [{"name": "smell", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}'):
        assert httpx.post(f"{server.url}/v2/models/mistere/infer", content=body).status_code == 400
    pods.pages["a"] = httpx.get(f"{server.url}/metrics").text
    counter.read()
    found = counter.figures()
    assert (found.requests, found.answered, found.errors, found.refused) == (3, 1, 0, 2)
    assert {label: n for label, n in found.labels.items() if n} == {answer.predicted[-1]: 1}
    assert sum(found.seconds.values()) == 1, "the time of a refusal is not that of an answer"
    assert 0 < found.percentile(0.99) <= 60


def test_a_page_that_is_none_is_one_sentence() -> None:
    with pytest.raises(MistereError, match="/metrics cannot be read"):
        samples("mistere_requests_total{code= 1\n")
    assert samples("") == {}
