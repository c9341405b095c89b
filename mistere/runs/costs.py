"""What usage costs: hours, energy, CO2e and money, by the factors and prices of ``registry.costs``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from mistere.artifacts.usage import Usage
from mistere.config.costs import CostSettings

_HOUR: Final = 3600.0
_GIB: Final = 1024.0**3


@dataclass(frozen=True)
class Costs:
    """What some work cost.

    Attributes:
        cpu_hours: of one core.
        gpu_hours: of one GPU.
        memory_gib_hours: peak memory times time.
        moved_gib: read and written.
        kwh: energy, of the data centre as a whole.
        measured: whether sensors measured the machine's energy; otherwise it is estimated from the hours.
        kg_co2e: kilograms of CO2e.
        money: the sum by the prices; None without any.
    """

    cpu_hours: float
    gpu_hours: float
    memory_gib_hours: float
    moved_gib: float
    kwh: float
    measured: bool
    kg_co2e: float
    money: float | None

    def metrics(self, prefix: str) -> dict[str, float]:
        """The figures as metrics of MLflow."""
        figures: dict[str, float | None] = {
            "cpu_hours": self.cpu_hours,
            "gpu_hours": self.gpu_hours,
            "memory_gib_hours": self.memory_gib_hours,
            "moved_gib": self.moved_gib,
            "kwh": self.kwh,
            "kg_co2e": self.kg_co2e,
            "money": self.money,
        }
        return {f"{prefix}{name}": value for name, value in figures.items() if value is not None}


def costs_of(usage: Usage, settings: CostSettings) -> Costs:
    """What this usage costs. Where energy was measured, the factors for cores, GPUs and memory are not used."""
    cpu, gpu = usage.cpu_seconds / _HOUR, usage.gpu_seconds / _HOUR
    memory = usage.memory_gib_seconds / _HOUR
    moved = (usage.read_bytes + usage.written_bytes) / _GIB
    watt_hours = settings.watts_per_core * cpu + settings.watts_per_gpu * gpu + settings.watts_per_gib * memory
    machine = usage.measured_kwh if usage.measured_kwh is not None else watt_hours / 1000
    kwh = machine * settings.data_centre_factor
    return Costs(
        cpu_hours=cpu,
        gpu_hours=gpu,
        memory_gib_hours=memory,
        moved_gib=moved,
        kwh=kwh,
        measured=usage.measured_kwh is not None,
        kg_co2e=kwh * settings.grams_per_kwh / 1000,
        money=settings.cpu_hour * cpu
        + settings.gpu_hour * gpu
        + settings.memory_gib_hour * memory
        + settings.moved_gib * moved
        if settings.has_prices
        else None,
    )


def total_costs(costs: Sequence[Costs]) -> Costs:
    """The sum. Energy counts as measured only if it was for each part."""

    def total(name: str) -> float:
        return float(sum(getattr(cost, name) or 0.0 for cost in costs))

    names = [field.name for field in fields(Costs) if field.name not in {"measured", "money"}]
    summed: dict[str, Any] = {name: total(name) for name in names}
    return Costs(
        **summed,
        measured=bool(costs) and all(cost.measured for cost in costs),
        money=total("money") if any(cost.money is not None for cost in costs) else None,
    )
