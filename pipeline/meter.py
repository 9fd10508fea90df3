"""PURE. What `pipeline` asks of a metric sink; the catalogue itself is `monitoring.metrics`."""

from typing import Protocol


class Meter(Protocol):
    """Names come from the metric catalogue, label values from closed sets; an unknown name raises KeyError."""

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None: ...

    def set(self, name: str, value: float, /, **labels: str) -> None: ...

    def observe(self, name: str, value: float, /, **labels: str) -> None: ...


class Silent:
    """Counts nothing: for one-shot verbs and tests."""

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None: ...

    def set(self, name: str, value: float, /, **labels: str) -> None: ...

    def observe(self, name: str, value: float, /, **labels: str) -> None: ...
