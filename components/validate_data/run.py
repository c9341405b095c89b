"""``validate_data``: check the dataset before anything is trained on it; the report survives a rejection."""

from __future__ import annotations

from pathlib import Path

from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.facts.dataset_facts import Facts, ShardFile
from components.validate_data.facts.shard_facts import FactsCache
from components.validate_data.quarantine import QUARANTINE_FILE, problems, write_quarantine
from components.validate_data.validation import validate
from components.validate_data.verdict import Quarantine, Validation, results_json, verdict_json
from mistere.artifacts.io import ArtifactHandle, open_artifact
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import DataProfile, ModelBundle, UtteranceSet, ValidationReport
from mistere.common.errors import ArtifactError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.common.splits import SPLITS
from mistere.config.validation import ValidationSettings
from mistere.data.dvc_remote import selected_dialogues, shard_paths
from mistere.data.profile import PROFILE_FILE, Profile, dump_profile, load_profile
from mistere.engine.stage import Result, Stage, Step
from mistere.registry.release.champion import NO_CHAMPION

STAGE = Stage(
    name="validate_data",
    config=ValidationConfig,
    inputs={"utterances": UtteranceSet},
    outputs={"report": ValidationReport, "profile": DataProfile, "accepted": UtteranceSet},
    reports={"report": ("validation_report.html",)},
    imports=("great_expectations", "pandas", "soundfile"),
)
REPORT = "validation_report.html"
RESULTS = "expectations.json"
VERDICT = "verdict.json"


def run(
    config: ValidationSettings,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    champion_digest: str,
    report: Path,
    profile: Path,
    accepted: Path,
) -> Result:
    """Validate a dataset.

    A rejected dataset is a result, not an error: the verdict is a value for the pipeline's condition.

    Args:
        config: the ``validation`` section.
        step: this execution.
        utterances: the dataset's reference.
        champion_digest: the bundle whose dataset this one is compared with, or ``none``.
        report: folder of the verdict: see :func:`write_report`.
        profile: folder of the dataset in numbers, which becomes part of the model's bundle.
        accepted: folder of the reference to the accepted dialogues; stays empty.
    """
    reference = utterances.manifest
    paths = shard_paths(reference)
    digests = {shard.name: shard.md5 for shard in reference.shards}
    files = [ShardFile(split, path, name, digests[name]) for split in SPLITS for name, path in paths[split].items()]
    further = {name: kind for name, kind in reference.kinds.items() if name not in IMPLICIT_KINDS}
    declared = Declared(
        reference.name,
        reference.labels,
        reference.language,
        reference.speaker_disjoint,
        further,
        reference.predict_roles,
    )
    validation = validate(
        files,
        declared,
        config,
        before=_champions_data(step, champion_digest),
        dialogues=selected_dialogues(
            {split: list(shards.values()) for split, shards in paths.items()}, reference.max_dialogues
        ),
        cache=FactsCache(step.store, reference.language, config.silence_dbfs, further),
        on_progress=step.progress,
    )
    write_report(validation, files, report, reference.dvc_digest)
    dump_profile(validation.profile, profile / PROFILE_FILE)
    for sentence in (*validation.failed, *validation.warnings):
        step.progress.note(sentence)
    if validation.with_quarantine:
        step.progress.note(validation.with_quarantine)
    return Result(
        manifests={
            "report": report_manifest(validation),
            "profile": DataProfile(
                name=reference.name, dvc_digest=reference.dvc_digest, scripts=_scripts(validation.facts)
            ),
            "accepted": _accepted(reference, validation.quarantine),
        },
        values={"verdict": validation.verdict},
    )


def write_report(validation: Validation, files: list[ShardFile], folder: Path, digest: str) -> None:
    """Write the verdict as data, Great Expectations' results, the HTML page, and the quarantined dialogues."""
    from components.validate_data.report import render

    (folder / VERDICT).write_text(verdict_json(validation), encoding="utf-8")
    (folder / RESULTS).write_text(results_json(validation.outcomes, validation.verdict), encoding="utf-8")
    (folder / REPORT).write_text(render(validation, validation.profile.name, digest), encoding="utf-8")
    if validation.quarantine:
        problem_of = problems(validation.outcomes, validation.facts.utterances, validation.facts.cells)
        write_quarantine(
            folder / QUARANTINE_FILE, files, validation.quarantine.dialogues, problem_of, validation.modalities
        )


def report_manifest(validation: Validation) -> ValidationReport:
    """The manifest of the report."""
    return ValidationReport(
        verdict=validation.verdict,
        failed=validation.failed,
        warnings=validation.warnings,
        quarantined=validation.quarantine.utterances if validation.quarantine else 0,
        expectations=sum(outcome.status != "not checked" for outcome in validation.outcomes),
        utterances=len(validation.facts.utterances),
        audio_seconds=round(validation.audio_seconds, 3),
    )


def _scripts(facts: Facts) -> dict[str, int]:
    """How many texts of train have each main script."""
    table = facts.utterances
    counts = table.loc[table["split"] == "train", "script"].dropna().value_counts()
    return {str(script): int(counts[script]) for script in sorted(counts.index)}


def _champions_data(step: Step, digest: str) -> Profile | None:
    """The profile of the champion's dataset; None without a champion, or if its bundle has no profile."""
    if digest == NO_CHAMPION:
        return None
    try:
        bundle = open_artifact(step.store, ModelBundle, digest)
        if PROFILE_FILE not in bundle.manifest.files:
            step.progress.note("the champion's bundle has no profile of its data: drift is not checked.")
            return None
        return load_profile(bundle.file(PROFILE_FILE))
    except ArtifactError as error:
        step.progress.note(f"the champion's data cannot be compared: {error}")
        return None


def _accepted(reference: UtteranceSet, aside: Quarantine | None) -> UtteranceSet:
    """The dataset without the quarantined dialogues; the same reference if there are none."""
    if aside is None:
        return reference
    names = {split: sorted(dialogues) for split, dialogues in sorted(aside.dialogues.items())}
    test = canonical_digest([reference.test_digest, names["test"]]) if "test" in names else reference.test_digest
    return reference.model_copy(
        update={
            "quarantined": names,
            "rows": {split: count - aside.rows[split] for split, count in reference.rows.items()},
            "dialogues": {split: count - len(names.get(split, ())) for split, count in reference.dialogues.items()},
            "test_digest": test,
        }
    )
