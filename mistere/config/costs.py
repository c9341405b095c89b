"""The part of the ``registry`` section about what a run costs: prices, and factors for energy and CO2e."""

from __future__ import annotations

from pydantic import Field

from mistere.config.base import Section

AFFECTS_RESULTS = False


class CostSettings(Section):
    """Prices and factors of what a run uses. They change reports, and no result.

    The factors' defaults are averages: a core's from Cloud Carbon Footprint's methodology (AWS, highest load), memory's from the same,
    a GPU's is the board power of an A100 SXM by NVIDIA's data sheet, the data centre's the average of the Uptime Institute's survey
    of 2024, the grid's the world's in 2024 by the IEA's Electricity 2025. Set those of your machines and of your grid.

    Attributes:
        currency: currency of the prices, as its code of three letters.
        cpu_hour: price of an hour of one core at work; without any price no sum of money is shown.
        gpu_hour: price of an hour of one GPU.
        memory_gib_hour: price of a GiB of memory for an hour.
        moved_gib: price of a GiB read from or written to the object store.
        watts_per_core: power of a core at work.
        watts_per_gpu: power of a GPU at work.
        watts_per_gib: power of a GiB of memory.
        data_centre_factor: energy of the whole data centre for each kWh of the machine (PUE); 1 counts the machine alone.
        grams_per_kwh: CO2e in grams of a kWh of the grid.
    """

    currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$")
    cpu_hour: float = Field(default=0.0, ge=0)
    gpu_hour: float = Field(default=0.0, ge=0)
    memory_gib_hour: float = Field(default=0.0, ge=0)
    moved_gib: float = Field(default=0.0, ge=0)
    watts_per_core: float = Field(default=3.5, ge=0)
    watts_per_gpu: float = Field(default=400.0, ge=0)
    watts_per_gib: float = Field(default=0.392, ge=0)
    data_centre_factor: float = Field(default=1.56, ge=1)
    grams_per_kwh: float = Field(default=445.0, ge=0)

    @property
    def has_prices(self) -> bool:
        """Whether anything has a price."""
        return any((self.cpu_hour, self.gpu_hour, self.memory_gib_hour, self.moved_gib))
