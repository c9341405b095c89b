"""The sentences of the run report: the outcome, its consequence, and the next steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mistere.common.errors import ExitCode
from mistere.config.stages import SCORING, task_title
from mistere.reports.mlflow_page import runs_page
from mistere.reports.next_commands import (
    DEFAULT_SERVICE,
    ask_command,
    decide_command,
    page_command,
    program,
    serve_command,
)
from mistere.runs.outcome import Outcome
from mistere.runs.tasks import base_task, pipeline_of
from mistere.serving.kserve.live_service import port_forward

_STATUS = {"done": ("ran", ""), "reused": ("reused", "soft"), "failed": ("failed", "bad")}
_PILLS = {
    "deployed": ("released", "good"),
    "waiting": ("waits for approval", "wait"),
    "held": ("held back", "wait"),
    "rejected": ("rejected", "bad"),
    "data rejected": ("data rejected", "bad"),
    "failed": ("failed", "bad"),
    "scored": ("scored", "good"),
}


@dataclass(frozen=True)
class NextStep:
    """A next step, with its command if there is one."""

    text: str
    command: str = ""

    def as_dict(self) -> dict[str, str]:
        """For the JSON report."""
        return asdict(self)


def status_word(status: str | None) -> tuple[str, str]:
    """A stage's status in words, and its CSS class."""
    if status is None:
        return "not reached", "soft"
    return _STATUS.get(status, ("interrupted", "bad"))


def was_interrupted(outcome: Outcome) -> bool:
    """Whether the run ended without a failed stage."""
    return outcome.verdict == "failed" and not any(record.status == "failed" for record in outcome.stages)


def pill(outcome: Outcome) -> tuple[str, str]:
    """The verdict in one or two words, and its CSS class."""
    return ("did not finish", "bad") if was_interrupted(outcome) else _PILLS[outcome.verdict]


def is_scoring(outcome: Outcome) -> bool:
    """Whether it is a run of the scoring pipeline."""
    return pipeline_of(record.task for record in outcome.stages) == SCORING


def headline(outcome: Outcome) -> str:
    """The outcome in one sentence."""
    if outcome.verdict == "deployed":
        if outcome.teacher:
            return "The run made the champion again, a student that a person released before."
        if outcome.champion_before and outcome.champion_before == outcome.bundle_digest:
            return "The run made the champion again: it passed the gate and stays released."
        return "The new model passed the gate and was released."
    if outcome.verdict == "waiting":
        return "The new model passed the gate and waits for approval."
    if outcome.verdict == "scored":
        return "The archive was scored."
    if outcome.is_champion:
        return f"The run made the champion again, and the gate {'held it back' if outcome.verdict == 'held' else 'rejected it'}."
    if outcome.verdict == "held":
        return "The new model was held back: the gate's rules neither reject it nor approve it."
    if outcome.verdict == "rejected":
        return "The new model is not good enough and was rejected."
    failed = [
        record.task for record in outcome.stages if record.status == "failed" and task_title(base_task(record.task))
    ]
    if outcome.verdict == "data rejected":
        return f"The dataset was rejected, so nothing was {'scored' if is_scoring(outcome) else 'trained on it'}."
    if failed:
        return f"The run failed while {task_title(base_task(failed[0]))}."
    return "The run did not finish."


def consequence(outcome: Outcome, champion_now: str) -> str:
    """The consequence of the outcome for the model in service.

    Args:
        outcome: of the run.
        champion_now: bundle digest of the current champion; empty if there is none or it is unknown.
    """
    if is_scoring(outcome):
        return (
            "The tables of its turns and calls are in the store, and a page shows their trends."
            if outcome.verdict == "scored"
            else "There are no scores of this run; the next one finds the shards that were scored."
        )
    if outcome.verdict == "deployed":
        if outcome.teacher:
            return "It is the model that is in service already, so nothing changes for its users."
        if not outcome.champion_before:
            return "It is the first champion."
        if outcome.champion_before == outcome.bundle_digest:
            return "It is the same model that was in service before, so nothing changes for its users."
        return f"It replaces the champion {outcome.champion_before[:12]}."
    if outcome.teacher:  # its pipeline never releases
        return "Nothing was released."
    if champion_now and champion_now == outcome.bundle_digest != outcome.champion_before:
        return "The new model had already become the champion; run again to complete the release."
    if outcome.finished("resolve_inputs") is None:
        return "Nothing was released."
    kept = "The champion stays in service." if outcome.champion_before else "There is no champion yet."
    return f"Nothing was released. {kept}"


def next_steps(outcome: Outcome, info: Mapping[str, Any], tracking_uri: str) -> list[NextStep]:
    """The next steps for the user.

    Args:
        outcome: of the run.
        info: the record of the run's start.
        tracking_uri: of MLflow, if the run was not logged there.
    """
    command = str(info.get("command") or "mistere run")
    resume = NextStep(
        "Run again: finished stages are reused, and long ones resume from their last checkpoint.", command
    )
    if outcome.verdict == "scored":
        return [NextStep(f"Look at the trends, groups and calls: {outcome.report}.")]
    if outcome.verdict == "deployed":
        return _released(outcome, _service(info), outcome.mlflow or tracking_uri)
    if outcome.verdict in {"waiting", "held", "rejected"}:
        return _not_promoted(outcome, outcome.mlflow or tracking_uri)
    if outcome.verdict == "data rejected":
        return [NextStep("Fix the problems above in the dataset."), NextStep("Run again after that:", command)]
    if was_interrupted(outcome):
        return [resume]
    if outcome.exit_code == ExitCode.USAGE:  # the command as it stands would fail again
        return [
            NextStep("Correct the setting or install what is named above, and run again. The command was:", command)
        ]
    return [NextStep("Fix the problem that is named above."), resume]


def _service(info: Mapping[str, Any]) -> str:
    """The name of the service, which is also the model's name in its paths."""
    deployment = (info.get("config") or {}).get("deployment") or {}
    return str(deployment.get("service") or DEFAULT_SERVICE)


def _released(outcome: Outcome, service: str, mlflow: str) -> list[NextStep]:
    steps = []
    if outcome.endpoint:
        url = outcome.endpoint
        if forward := port_forward(url):
            steps.append(
                NextStep(f"The model answers inside the cluster at {url}; forward its port to this machine:", forward)
            )
            url = "http://localhost:8080"
        steps.append(NextStep("Send a dialogue to the deployed model:", ask_command(outcome, url, model=service)))
    if outcome.bundle:
        steps.append(NextStep("Serve it on this machine:", serve_command(outcome)))
    if not outcome.endpoint:
        steps.append(NextStep("Send it a dialogue from another terminal:", ask_command(outcome)))
    return [*steps, *_mlflow(outcome, mlflow)]


def _not_promoted(outcome: Outcome, tracking_uri: str) -> list[NextStep]:
    if outcome.is_champion:
        advice = "Nothing needs to be done: the model is in service already."
    elif outcome.verdict == "held":
        advice = "Add test dialogues, which narrow the intervals of an undecided comparison, or improve the model."
    else:
        advice = "Look below for weak emotions and experts, and improve their data or settings."
    if outcome.verdict == "waiting":
        return [*_decide(outcome), *_mlflow(outcome, tracking_uri)]
    return [
        *_decide(outcome),
        NextStep(advice),
        NextStep(
            "For another model, change the data, the code or a setting first: a run with the same ones ends in the same way. Stages "
            "that a change does not affect are reused. The settings and their defaults are listed by:",
            f"{program(outcome)} settings",
        ),
        *_mlflow(outcome, tracking_uri),
    ]


def _decide(outcome: Outcome) -> list[NextStep]:
    """How a person decides on the candidate; nothing if nobody can."""
    if not outcome.candidate:
        return []
    return [
        NextStep("Release it all the same, with your reason in the promotion log:", decide_command(outcome, "approve"))
        if outcome.verdict == "held"
        else NextStep("Release it, with your reason in the promotion log:", decide_command(outcome, "approve")),
        NextStep("Or decline it:", decide_command(outcome, "reject")),
    ]


def _mlflow(outcome: Outcome, uri: str) -> list[NextStep]:
    if not uri:
        return []
    page = runs_page(uri, outcome.experiment)
    command = page_command(outcome, page)
    if not command:
        return [NextStep(f"Compare it with earlier models in MLflow, at {page.url}.")]
    return [NextStep(f"Compare it with earlier models in MLflow: start its server, and open {page.url}.", command)]
