"""What an application wants of the cluster against what the cluster has, checked before Serve waits for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.settings import ServeSettings

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Demand:
    """CPUs that one deployment reserves."""

    deployment: str
    replicas: int
    num_cpus: float
    """per replica [CPUs]"""

    @property
    def total(self) -> float:
        """All replicas together [CPUs]."""
        return self.replicas * self.num_cpus


def demands_of(settings: ServeSettings, experts: Sequence[str]) -> list[Demand]:
    """What `settings` reserves for a bundle with these experts."""
    router = Demand("RouterStage", settings.router_replicas, settings.router_num_cpus)
    return [
        router,
        *(Demand(f"expert `{name}`", settings.expert_replicas, settings.expert_num_cpus) for name in experts),
    ]


def explain_shortage(demands: Sequence[Demand], resources: Mapping[str, float]) -> str | None:
    """A sentence that names what does not fit, or None where all fits.

    Args:
        demands: in the order in which they are placed.
        resources: of the cluster, as Ray reports them.
    """
    available = resources.get("CPU", 0.0)
    wanted = sum(demand.total for demand in demands)
    if wanted <= available + _ROUNDING:
        return None
    placed = 0.0
    left_out = []
    for demand in demands:
        if placed + demand.total <= available + _ROUNDING:
            placed += demand.total
        else:
            left_out.append(f"{demand.deployment} ({demand.replicas} x {demand.num_cpus:g} CPUs)")
    return (
        f"{wanted:g} CPUs are wanted, {available:g} are there; does not fit: {', '.join(left_out)}. "
        "Lower `router_num_cpus`, `expert_num_cpus` or the replicas, or add a node"
    )
