"""PURE. A log against what should stand in it, in order: found in its place, found out of order, or not there.

Both sides are streams; memory is a window of `AHEAD` records before and behind, which is how far out of its place a
record is looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

AHEAD = 20_000  # a transaction of the validator: what is aborted and written again lies closer than that

Place = Literal["here", "elsewhere", "nowhere"]


class InOrder:
    """`place(expected)` for one expected record after the other; `surplus()` is what nobody expected.

    >>> log = InOrder([b"a", b"c", b"b", b"x", b"d"])
    >>> [log.place(e) for e in (b"a", b"b", b"c", b"lost", b"d")]
    ['here', 'here', 'elsewhere', 'nowhere', 'here']
    >>> list(log.surplus(final=True))
    [b'x']
    """

    def __init__(self, log: Iterable[bytes], ahead: int = AHEAD):
        self._log, self._ahead = iter(log), ahead
        self._held: deque[bytes | None] = deque()  # read and not yet let go; None = taken
        self._at: dict[bytes, deque[int]] = {}  # places of the held ones
        self._first = 0  # place of the first one held
        self._last = -1  # furthest place taken

    def place(self, expected: bytes) -> Place:
        """Where the expected record stands in the log."""
        if not self._held:
            one = next(self._log, None)
            if one == expected:
                self._last = self._first
                self._first += 1
                return "here"
            if one is None:
                return "nowhere"
            self._hold(one)
        elif self._held[0] == expected and self._last < self._first:
            self._take(expected)
            return "here"
        for one in islice(self._log, self._ahead - (self._first + len(self._held) - self._last - 1)):
            self._hold(one)
        if expected not in self._at:
            return "nowhere"
        last = self._last
        return "here" if self._take(expected) > last else "elsewhere"

    def surplus(self, *, final: bool = False) -> Iterator[bytes]:
        """What was passed by and is too far back to be looked for; with `final` all that is left."""
        while self._held and (final or self._held[0] is None or self._last - self._first > self._ahead):
            one = self._held.popleft()
            if one is not None:
                self._forget(one)
                yield one
            self._first += 1
        if final:
            yield from self._log

    def _hold(self, one: bytes) -> None:
        self._at.setdefault(one, deque()).append(self._first + len(self._held))
        self._held.append(one)

    def _take(self, one: bytes) -> int:
        at = self._at[one][0]
        self._forget(one)
        self._held[at - self._first] = None
        while self._held and self._held[0] is None:
            self._held.popleft()
            self._first += 1
        self._last = max(self._last, at)
        return at

    def _forget(self, one: bytes) -> None:
        places = self._at[one]
        places.popleft()
        if not places:
            del self._at[one]
