"""PURE. A YAML document that remembers its lines, so that an error in a contract names the line and the key.

Knows no contract: it reads typed values at a path and collects what is wrong, all of it, before anything is raised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, TypeVar, get_args

import yaml

from pipeline.errors import UsageError

C = TypeVar("C", bound=str)
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|min|h|d)")
_KINDS = {
    "map": "a mapping",
    "seq": "a list",
    "null": "nothing",
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
}


@dataclass(frozen=True, slots=True)
class At:
    """A place in the document: a node (None = absent), its path, and where its errors are collected."""

    node: yaml.Node | None
    path: str
    line: int
    source: str
    errors: list[str]

    def wrong(self, expected: str, hint: str = "") -> None:
        """Collect one error: `file:line: key: expected ..., got ...; what to do`."""
        self.errors.append(
            f"{self.source}:{self.line}: {self.path or 'document'}: expected {expected}, got {self._got()}{'; ' + hint if hint else ''}"
        )

    @property
    def absent(self) -> bool:
        return self.node is None or _tag(self.node) == "null"

    def get(self, key: str) -> At:
        """The value under a key; absent values keep this place's line."""
        path = f"{self.path}.{key}" if self.path else key
        for name, value in self._pairs():
            if name.value == key:
                return replace(self, node=value, path=path, line=name.start_mark.line + 1)
        return replace(self, node=None, path=path)

    def only(self, *known: str) -> At:
        """The same place, after every key that is not known, or stands twice, was collected as an error."""
        if not isinstance(self.node, yaml.MappingNode):
            self.wrong(f"a mapping with keys from: {', '.join(known)}")
            return self
        seen: set[str] = set()
        for name, value in self._pairs():
            here = replace(
                self,
                node=value,
                path=f"{self.path}.{name.value}" if self.path else name.value,
                line=name.start_mark.line + 1,
            )
            if name.value not in known:
                here._collect(f"unknown key, expected one of: {', '.join(known)}")
            elif name.value in seen:
                here._collect("the key stands twice; keep one")
            seen.add(name.value)
        return self

    def items(self) -> list[At]:
        if self.absent:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            self.wrong("a list")
            return []
        return [
            replace(self, node=n, path=f"{self.path}[{i}]", line=n.start_mark.line + 1)
            for i, n in enumerate(self.node.value)
        ]

    def text(self, default: str | None = None, pattern: str | None = None, like: str = "") -> str:
        if self.absent and default is not None:
            return default
        value = self._scalar("str")
        if value is None:
            self.wrong(
                f"text{' like ' + like if like else ''}", "quote it" if self._is_scalar() and not self.absent else ""
            )
        elif pattern and not re.fullmatch(pattern, value):
            self.wrong(f"text like {like or pattern}")
        return value or default or ""

    def texts(self) -> tuple[str, ...]:
        return tuple(item.text() for item in self.items())

    def choice(self, kind: object, default: C) -> C:
        """One of a Literal's values."""
        known = get_args(kind)
        if self.absent:
            return default
        value = self._scalar("str")
        if value not in known:
            self.wrong(f"one of: {', '.join(known)}")
            return default
        return value  # type: ignore[return-value]

    def integer(self, default: int, least: int | None = None) -> int:
        if self.absent:
            return default
        value = self._scalar("int")
        if value is None or (least is not None and int(value, 0) < least):
            self.wrong("an integer" + (f" >= {least}" if least is not None else ""))
            return default
        return int(value, 0)

    def number(self, default: float | None = None) -> float | None:
        if self.absent:
            return default
        value = self._scalar("int") or self._scalar("float")
        if value is None or value.strip("+-").lower() in (".inf", ".nan"):
            self.wrong("a number")
            return default
        return float(value)

    def flag(self, default: bool) -> bool:
        if self.absent:
            return default
        value = self._scalar("bool")
        if value is None:
            self.wrong("true or false")
            return default
        return value.lower() in ("true", "yes", "on")

    def duration(self, default: timedelta | None) -> timedelta:
        found = default if self.absent else self._duration()
        if found is None:
            self.wrong("a duration like 10 min (units: ms, s, min, h, d)")
        return found or timedelta(milliseconds=1)

    def duration_or_off(self, default: timedelta | None) -> timedelta | None:
        """A duration, or `off` = None."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.value.lower() == "off":
            return None
        return default if default is None and self.absent else self.duration(default)

    def scalar(self) -> str | float | bool | None:
        """Whatever scalar stands here, typed as YAML types it."""
        if not self._is_scalar() or self.absent:
            self.wrong("a text, a number, true or false")
            return None
        if (flag := self._scalar("bool")) is not None:
            return flag.lower() in ("true", "yes", "on")
        number = self._scalar("int") or self._scalar("float")
        return self._scalar("str") or "" if number is None else float(number)

    def _collect(self, message: str) -> None:
        self.errors.append(f"{self.source}:{self.line}: {self.path}: {message}")

    def _pairs(self) -> Sequence[tuple[yaml.ScalarNode, yaml.Node]]:
        return self.node.value if isinstance(self.node, yaml.MappingNode) else ()

    def _is_scalar(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode)

    def _scalar(self, tag: Literal["str", "int", "float", "bool"]) -> str | None:
        return self.node.value if isinstance(self.node, yaml.ScalarNode) and _tag(self.node) == tag else None

    def _duration(self) -> timedelta | None:
        match = _DURATION.fullmatch(self._scalar("str") or "")
        return (
            timedelta(milliseconds=round(float(match[1]) * _UNITS[match[2]])) if match and float(match[1]) > 0 else None
        )

    def _got(self) -> str:
        if self.node is None:
            return "nothing"
        kind = _KINDS.get(_tag(self.node), _tag(self.node))
        return f"{kind} {self.node.value!r}" if self._is_scalar() and not self.absent else kind


def document(text: str, source: str) -> At:
    """The document's root; UsageError with file and line if it is not YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UsageError(
            f"{source}:{mark.line + 1 if mark else 1}: document: expected YAML, got {error.problem or error.context}"
        ) from error
    except yaml.reader.ReaderError as error:  # a character that YAML forbids: a position, but no mark
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(
            f"{source}:{line}: document: expected YAML, got character #x{ord(text[error.position]):04x}"
        ) from error
    return At(node, "", 1, source, [])


def _tag(node: yaml.Node) -> str:
    return node.tag.rpartition(":")[2]
