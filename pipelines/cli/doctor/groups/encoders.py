"""The encoders: whether their sources exist and may be read, and the packages that their training needs are installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from components.transcribe.run import check_model
from mistere.common.errors import MistereError, UsageError
from mistere.model.encoders.lookup.source_check import check_encoder, is_folder
from pipelines.bundle_estimate import check_planned_room, hidden_options
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, failed, note, ok, refused
from pipelines.train_image import check_train_image


def group(plan: Plan) -> CheckGroup:
    """The check of each encoder."""
    checks = [Check(modality, partial(_source, plan, modality)) for modality in plan.config.modalities]
    if plan.config.data.transcription.is_on:
        checks.append(Check("transcription", lambda: _transcription(plan)))
    if plan.on_a_cluster:
        checks.append(Check("packages", lambda: _packages(plan)))
        checks.append(Check("room", lambda: _room(plan)))
    return CheckGroup("Encoders", checks)


def _packages(plan: Plan) -> CheckResult:
    try:
        check_train_image(plan.config)
    except MistereError as error:
        return failed(str(error))
    folders = [modality for modality, encoder in plan.config.encoders().items() if is_folder(encoder.source)]
    if folders:
        return note(f"the train image's folder of {' and '.join(folders)} is checked when finetune_encoder starts.")
    return ok("the train image has what the encoders need.")


def _room(plan: Plan) -> CheckResult:
    """Whether the pods of the deployment can hold the models."""
    try:
        room = check_planned_room(plan.config)
    except UsageError as error:
        return refused(str(error))
    hidden = hidden_options(plan.config.deployment)
    return note(f"{room} {hidden}") if hidden else ok(room)


def _source(plan: Plan, modality: str) -> CheckResult:
    settings = plan.config.encoder(modality)
    return _checked(plan, settings.source, partial(check_encoder, settings, modality))


def _transcription(plan: Plan) -> CheckResult:
    data = plan.config.data
    return _checked(plan, data.transcription.source, partial(check_model, data, ""))


def _checked(plan: Plan, source: str, check: Callable[[bool], None]) -> CheckResult:
    """Check a source; the argument is whether this machine loads the model."""
    try:
        check(not plan.on_a_cluster)
    except MistereError as error:
        if plan.on_a_cluster:
            return note(f"from this machine, not from a pod: {error}")
        return failed(str(error))
    return ok(f"{source}.")
