"""PURE. Which reference judges a pane: the highest version whose `effective_from` is not after the pane's start.

It is a function of the published references alone, whenever a process learns of them. A timeline's generation is its
highest version; what is judged under generation g is judged again from `changed_from(g)` on when a later one is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stream_processors.judging.panes import Key
from stream_processors.reference.cells import FeatureReference

Members = Mapping[Key, FeatureReference]


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """One version: all references published together. `load` reads them; it is called when a pane needs them."""

    version: int
    effective_from: int  # ms, a pane start
    load: Callable[[], Members] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Timeline:
    sets: tuple[ReferenceSet, ...] = ()

    @property
    def generation(self) -> int:
        return max((s.version for s in self.sets), default=0)

    def at(self, pane: int) -> ReferenceSet | None:
        """
        >>> t = Timeline((ReferenceSet(1, 0, dict), ReferenceSet(2, 60, dict)))
        >>> [t.at(pane) and t.at(pane).version for pane in (-5, 0, 59, 60)]
        [None, 1, 1, 2]
        """
        return max((s for s in self.sets if s.effective_from <= pane), key=lambda s: s.version, default=None)

    def of(self, version: int) -> ReferenceSet | None:
        return next((s for s in self.sets if s.version == version), None)

    def version_at(self, pane: int) -> int:
        found = self.at(pane)
        return found.version if found else 0

    def through(self, generation: int) -> Timeline:
        """As it was when `generation` was the highest version."""
        return Timeline(tuple(s for s in self.sets if s.version <= generation))

    def changed_from(self, generation: int) -> int | None:
        """The first pane start whose version may differ from what `generation` said; None if there is none."""
        return min((s.effective_from for s in self.sets if s.version > generation), default=None)
