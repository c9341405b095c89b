"""The teacher of a distillation: whether there is one, and whether a student can be made of it."""

from __future__ import annotations

from components.plan_distillation.run import check_teacher
from mistere.artifacts.io import read_manifest
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.registry.release.champion import chosen_bundle
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, ok


def group(plan: Plan) -> CheckGroup:
    """The check of the teacher."""
    return CheckGroup("Teacher", [Check("bundle", lambda: _bundle(plan))])


def _bundle(plan: Plan) -> CheckResult:
    if not plan.store:
        raise SkippedError("no store is named.")
    store, named = open_store(plan.store), plan.config.distillation.teacher
    digest, _ = chosen_bundle(store, named, "distillation.teacher")
    check_teacher(read_manifest(store, ModelBundle, digest), plan.config.modalities, named=bool(named))
    return ok(f"{digest[:12]}{'' if named else ', the champion'}.")
