"""Rules that compare one figure with an upper bound: a table of declarations."""

from __future__ import annotations

from components.gate_model.rule import Case, Examples, upper_bound

RULES = (
    # The point estimate, not its interval: resampling adds to the calibration error.
    upper_bound(
        "calibration",
        figure="test.ece",
        subject="The expected calibration error",
        finding="Confidence and accuracy differ by {measured:.3f} on average (expected calibration error)",
        limit="{bound:.3f}",
        setting="max_ece",
        default=0.15,
        limits={"ge": 0, "le": 1},
        description="highest expected calibration error (0..1).",
        examples=Examples(promotes={"test.ece": 0.05}, cases=(Case("reject", {"test.ece": 0.16}),)),
    ),
    # Not the clock: a busy machine made good models too slow.
    upper_bound(
        "latency",
        figure="runtime.unloaded_ms.p95",
        subject="The response time",
        finding="95 % of test dialogues are answered within {measured:.0f} ms on the machine that evaluated the model, without the time "
        "that other processes took",
        limit="{bound:.0f} ms",
        setting="max_dialogue_ms",
        default=False,
        limits={"gt": 0},
        description="longest time for a dialogue (of vectors, if the model takes those) on the machine that evaluated it (95th percentile), "
        "in ms, without the time that other processes took.",
        fix="set evaluation.runtime=true",
        examples=Examples(
            promotes={"runtime.unloaded_ms.p95": 120.0},
            thresholds={"max_dialogue_ms": 500.0},
            cases=(Case("reject", {"runtime.unloaded_ms.p95": 501.0}),),
        ),
    ),
    # Base weights are shared between versions and do not count.
    upper_bound(
        "bundle_size",
        figure="runtime.size_mb",
        subject="The bundle's size",
        finding="The bundle without its base weights has {measured:.1f} MiB",
        limit="{bound:.0f} MiB",
        setting="max_bundle_mb",
        default=False,
        limits={"gt": 0},
        description="largest size of the bundle without its base weights, in MiB.",
        examples=Examples(
            promotes={"runtime.size_mb": 12.0},
            thresholds={"max_bundle_mb": 64.0},
            cases=(Case("reject", {"runtime.size_mb": 64.1}),),
        ),
    ),
)
