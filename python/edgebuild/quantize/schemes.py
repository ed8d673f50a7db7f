"""The schemes of a target, grouped by the files that they need, and the one that this machine can judge."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from edgebuild.targets.spec import QuantizationScheme


@dataclass(frozen=True, kw_only=True)
class SchemeGroup:
    """Schemes that differ only in the CPUs that they are for: one quantised graph serves them all.

    Args:
        scheme: How the graph is quantised.
        requires: For each variant the CPU features that it needs beyond the target's.
        suffix: Behind the variants' names; tells the groups of a target apart.
    """

    scheme: QuantizationScheme
    requires: tuple[tuple[str, ...], ...]
    suffix: str

    def runs_on(self, features: Collection[str]) -> bool:
        """Whether a CPU with these features is one that the group is meant for."""
        return any(set(needed) <= set(features) for needed in self.requires)

    @property
    def unconditional(self) -> bool:
        """Whether every board of the target can take one of its variants."""
        return () in self.requires


def group_schemes(schemes: Sequence[QuantizationScheme]) -> tuple[SchemeGroup, ...]:
    """The groups, best first."""
    found: dict[QuantizationScheme, list[tuple[str, ...]]] = {}
    for scheme in schemes:
        found.setdefault(replace(scheme, cpu_features=()), []).append(scheme.cpu_features)
    groups: list[SchemeGroup] = []
    for index, (scheme, requires) in enumerate(found.items()):
        suffix = "" if index == 0 else "-7bit" if scheme.reduce_range else f"-{scheme.activation}"
        taken = {group.suffix for group in groups}
        groups.append(
            SchemeGroup(
                scheme=scheme,
                requires=tuple(requires),
                suffix=suffix if suffix not in taken else f"{suffix}-{index + 1}",
            )
        )
    return tuple(groups)


def judged_group(groups: Sequence[SchemeGroup], features: Collection[str]) -> SchemeGroup:
    """The group by which a model is judged here: the first that this machine's CPU is meant for, else the first."""
    return next((group for group in groups if group.runs_on(features)), groups[0])
