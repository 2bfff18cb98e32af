"""The graph of steps, as dependencies: step -> the steps that it reads from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Dependencies = Mapping[str, Iterable[str]]


def order(dependencies: Dependencies) -> list[str]:
    """The steps with each after what it reads, in the recipe's order wherever that leaves a choice.

    Raises:
        ValueError: There is a cycle; ask `cycles` first.
    """
    found = ordered_part(dependencies)
    if len(found) < len(dependencies):
        raise ValueError(f"cycles: {cycles(dependencies)}")
    return found


def ordered_part(dependencies: Dependencies) -> list[str]:
    """As `order`, without the steps that are on a cycle or behind one."""
    waiting = {name: set(needs) for name, needs in dependencies.items()}
    found: list[str] = []
    done: set[str] = set()
    while ready := next((name for name, needs in waiting.items() if needs <= done), None):
        found.append(ready)
        done.add(ready)
        del waiting[ready]
    return found


def cycles(dependencies: Dependencies) -> list[list[str]]:
    """One cycle for each knot of steps that wait for each other: `[["a", "b"]]` is a reads b reads a."""
    ordered = set(ordered_part(dependencies))
    left = {
        name: [need for need in needs if need not in ordered]
        for name, needs in dependencies.items()
        if name not in ordered
    }
    found: list[list[str]] = []
    for start in left:
        walk = _walk_back(left, start)
        if walk and not any(set(walk) & set(other) for other in found):
            found.append(walk)
    return found


def _walk_back(needs: Dependencies, start: str) -> list[str]:
    """The shortest walk along the needs of `start` that ends at `start` again; empty if there is none."""
    walks: list[list[str]] = [[start]]
    seen: set[str] = set()
    while walks:
        walk = walks.pop(0)
        for need in needs.get(walk[-1], ()):
            if need == start:
                return walk
            if need not in seen:
                seen.add(need)
                walks.append([*walk, need])
    return []


def ancestors(dependencies: Dependencies, step: str) -> set[str]:
    """The steps that `step` needs, directly or not."""
    found: set[str] = set()
    pending = list(dependencies[step])
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += dependencies.get(name, ())
    return found


def descendants(dependencies: Dependencies, step: str) -> set[str]:
    """The steps that need `step`, directly or not."""
    return {name for name in dependencies if step in ancestors(dependencies, name)}
