"""The encoders: whether their sources exist and may be read, and the packages that their training needs are installed."""

from __future__ import annotations

from functools import partial

from mistere.common.errors import MistereError
from mistere.common.modalities import MODALITIES
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.lookup.source_check import check_encoder
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, failed, note, ok


def group(plan: Plan) -> CheckGroup:
    """The check of each encoder."""
    return CheckGroup("Encoders", [Check(modality, partial(_source, plan, modality)) for modality in MODALITIES])


def _source(plan: Plan, modality: str) -> CheckResult:
    settings: EncoderConfig = getattr(plan.config, modality)
    try:
        check_encoder(settings, modality, in_this_image=not plan.on_a_cluster)
    except MistereError as error:
        if plan.on_a_cluster:
            return note(f"from this machine, not from a pod: {error}")
        return failed(str(error))
    return ok(f"{settings.source}.")
