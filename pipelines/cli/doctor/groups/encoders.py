"""The encoders: whether their sources exist and may be read, and the packages that their training needs are installed."""

from __future__ import annotations

from functools import partial

from mistere.common.errors import MistereError
from mistere.model.encoders.lookup.source_check import check_encoder, is_folder
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, failed, note, ok
from pipelines.train_image import check_train_image


def group(plan: Plan) -> CheckGroup:
    """The check of each encoder."""
    checks = [Check(modality, partial(_source, plan, modality)) for modality in plan.config.modalities]
    if plan.on_a_cluster:
        checks.append(Check("packages", lambda: _packages(plan)))
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


def _source(plan: Plan, modality: str) -> CheckResult:
    settings = plan.config.encoder(modality)
    try:
        check_encoder(settings, modality, in_this_image=not plan.on_a_cluster)
    except MistereError as error:
        if plan.on_a_cluster:
            return note(f"from this machine, not from a pod: {error}")
        return failed(str(error))
    return ok(f"{settings.source}.")
