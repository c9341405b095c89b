"""What the run cost, as the report shows it and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from components.report_run.timing import duration
from mistere.config.costs import CostSettings
from mistere.runs.costs import Costs, costs_of, total_costs
from mistere.runs.outcome import EXIT_HANDLER, Outcome
from mistere.runs.tasks import ordered_tasks

_SPACE: Final = "\N{NO-BREAK SPACE}"


class RunCosts:
    """The costs of a run by task, and their sum. A step that was reused cost nothing but looking it up.

    Args:
        outcome: with the records of the stages; those of earlier releases say nothing of what they used.
        settings: prices and factors.
    """

    def __init__(self, outcome: Outcome, settings: CostSettings) -> None:
        records = {record.task: record for record in outcome.stages if record.task != EXIT_HANDLER}
        self.settings = settings
        self.by_task = {
            task: costs_of(records[task].usage, settings)
            for task in ordered_tasks(records, outcome.modalities)
            if task in records and records[task].usage.cpu_seconds > 0
        }
        self.total = total_costs(list(self.by_task.values()))

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "currency": self.settings.currency,
            "total": asdict(self.total),
            "stages": {task: asdict(costs) for task, costs in self.by_task.items()},
        }

    def view(self) -> dict[str, Any] | None:
        """Rows, tiles and a sentence for the page; None if no record says what was used."""
        if not self.by_task:
            return None
        return {
            "titles": [title for title, _ in self._cells(self.total)],
            "rows": [(task, [text for _, text in self._cells(costs)]) for task, costs in self.by_task.items()],
            "tiles": self._cells(self.total),
            "sentence": self._sentence(),
        }

    def _cells(self, costs: Costs) -> list[tuple[str, str]]:
        cells = [("processor time", duration(3600 * costs.cpu_hours))]
        if self.total.gpu_hours:
            cells.append(("GPU time", duration(3600 * costs.gpu_hours)))
        cells.append(("read and written", _amount(1024 * costs.moved_gib, "MB", "GB", 1024)))
        cells.append(("energy", _amount(1000 * costs.kwh, "Wh", "kWh", 1000)))
        cells.append(("CO2e", _amount(1000 * costs.kg_co2e, "g", "kg", 1000)))
        if costs.money is not None:
            cells.append(("price", f"{costs.money:.2f}{_SPACE}{self.settings.currency}"))
        return cells

    def _sentence(self) -> str:
        used = self.settings
        grid = f"{used.grams_per_kwh:g} g CO2e a kWh"
        centre = f"times {used.data_centre_factor:g} for what the data centre adds (cooling and power supply)"
        if self.total.measured:
            return f"The machine's sensors measured the energy, {centre}; {grid}."
        gpu = f", {used.watts_per_gpu:g} W a GPU" if self.total.gpu_hours else ""
        return (
            f"Energy is an estimate: {used.watts_per_core:g} W a busy core{gpu}, {used.watts_per_gib:g} W a GiB, {centre}; {grid}. "
            "Set the factors of your machines and prices in the profile, under registry.costs."
        )


def _amount(value: float, small: str, large: str, step: int) -> str:
    if value >= step:
        return f"{value / step:.1f}{_SPACE}{large}"
    if 0 < value < 0.01:
        return f"< 0.01{_SPACE}{small}"
    text = f"{value:.2g}" if value < 1 else f"{value:.{0 if value >= 100 else 1}f}"
    return f"{text}{_SPACE}{small}"
