"""Which package needs which: the order of uploads, and who depends on whom.

Only plain data here. A package is uploaded after those that it needs, so that
at no moment the index offers a package whose sibling is missing.
"""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from packaging.requirements import Requirement

from maestro_release.errors import UsageFault
from maestro_release.workspace import Package, normalise


def needs(packages: Sequence[Package]) -> dict[str, frozenset[str]]:
    """Return for each package the siblings that it needs, extras included."""
    names = {package.name for package in packages}
    return {
        package.name: frozenset(required_names(package) & names - {package.name})
        for package in packages
    }


def required_names(package: Package) -> set[str]:
    """Return the names of everything that the package or an extra requires."""
    texts = [*package.requires, *(t for _, extra in package.extras for t in extra)]
    return {normalise(Requirement(text).name) for text in texts}


def in_order(packages: Sequence[Package]) -> tuple[Package, ...]:
    """Return the packages so that each comes after those it needs.

    Equals stand in the order they were given, so that a plan reads the same
    every time.

    Raises:
        UsageFault: they need each other in a circle.
    """
    by_name = {package.name: package for package in packages}
    sorter = TopologicalSorter(
        {name: sorted(before) for name, before in needs(packages).items()}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise UsageFault(
            f"the packages need each other in a circle: {circle}"
        ) from None
    order: list[Package] = []
    while sorter.is_active():
        ready = set(sorter.get_ready())
        order += [by_name[name] for name in by_name if name in ready]
        sorter.done(*ready)
    return tuple(order)


def dependants(packages: Sequence[Package], name: str) -> tuple[str, ...]:
    """Return the siblings that need `name` directly."""
    return tuple(sorted(p for p, before in needs(packages).items() if name in before))
