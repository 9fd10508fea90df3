"""EDGE. The promotion policy: Rego files beside this module, asked in process; one question, one answer with reasons.

Python gathers numbers, the policy compares them: every limit and every "and" of a decision stands in `policies/*.rego`.
Evidence that is missing, not finite or of a wrong type is refused (fail closed), and so is a policy that does not answer.
`version()` is a digest of the files; each ledger entry names it. Cost: 10 ms a question (an interpreter of its own each
time, because a refused input would leave the former one in place).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType

FILES = ("limits.rego", "promotion.rego", "watch.rego")
Json = Mapping[str, object]
SMALLEST = 1e-300  # the interpreter cannot read smaller numbers


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer about a challenger. `denied`: names of the checks that did not pass."""

    promote: bool
    denied: tuple[str, ...]
    reasons: tuple[str, ...]
    superior: bool
    material: bool
    policy: str
    evidence: Json = field(default_factory=dict)

    @property
    def worst_slice(self) -> str | None:
        return next((d.removeprefix("slice ") for d in self.denied if d.startswith("slice ")), None)


@functools.cache
def sources() -> Mapping[str, str]:
    here = resources.files("batch") / "policies"
    return MappingProxyType({name: (here / name).read_text() for name in FILES})


@functools.cache
def version() -> str:
    """`promotion@` and the first 12 hex digits of the SHA-256 over the files' names and texts."""
    text = "".join(f"{name}\n{body}\n" for name, body in sources().items())
    return f"promotion@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@functools.cache
def limits(of: str = "promotion") -> Mapping[str, float]:
    """The policy's own numbers, so that the evidence is gathered at the levels at which it is judged."""
    found = ask(f"data.driftline.limits.{of}", {})
    assert isinstance(found, dict)
    return MappingProxyType({str(k): float(v) for k, v in found.items()})


def ask(query: str, given: Json) -> object:
    """The value of `query` for the input; an exception of any kind means that there is no answer."""
    from regopy import Interpreter

    interpreter = Interpreter()
    for name, body in sources().items():
        interpreter.add_module(name, body)
    interpreter.set_input_term(json.dumps(readable(given), allow_nan=False))
    answer = interpreter.query(
        f"x={query}"
    )  # read as text: a node of it does not outlive it, and then the process dies
    return json.loads(str(answer))["bindings"]["x"]


def decide(evidence: Json) -> Decision:
    """May the challenger that the evidence is about become champion?"""
    try:
        found = ask("data.driftline.promotion.answer", evidence)
        assert isinstance(found, dict) and isinstance(evidence, Mapping)
        denied = tuple(sorted(str(d) for d in found["denied"]))
        promote = found["promote"] is True and not denied
        superior, material = found["superior"] is True, found["material"] is True
        needs, basis = found["needs_material"] is True, str(found["basis"])
    except Exception as error:  # whatever went wrong, an answer that was not given is no
        said = (f"the policy did not answer: {type(error).__name__}: {error}",)
        return Decision(False, ("policy",), said, False, False, version(), evidence)
    reasons = (_compared(evidence, basis, needs), *(_told(d, evidence) for d in denied if d not in _SAID))
    return Decision(promote, denied, reasons, superior, material, version(), evidence)


def verdict(watched: Json) -> str:
    """`rollback`, `alert`, `keep` or `watch`; a policy that does not answer changes nothing."""
    try:
        found = ask("data.driftline.watch.answer", watched)
        return str(found["verdict"]) if isinstance(found, dict) else "watch"
    except Exception:
        return "watch"


def readable(value: object) -> object:
    """As JSON that the interpreter can read: a number that is not finite becomes null, one that is almost 0 becomes 0."""
    if isinstance(value, Mapping):
        return {str(k): readable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [readable(v) for v in value]
    if isinstance(value, float):
        return None if not math.isfinite(value) else (0.0 if abs(value) < SMALLEST else value)
    return value


_SAID = {"better", "slices", "groups"}  # told by the first sentence, by the slices', by the groups'
_TEXTS = {
    "input": "the evidence is neither a first model's nor a challenger's",
    "golden": "golden rows do not get the scores that they were stored with",
    "schema": "the model needs columns or a label that the contract does not have",
    "budget": "the bundle is too large or too slow",
    "numbers": "a loss is not a finite number",
    "lost": "recorded requests: too many rows of them are lost to say how the others would be answered",
    "replay": "recorded requests: not all are scored, or answers differ too much, or the loss is not shown to be as good",
    "new": "this version was rolled back from before",
}


def _compared(evidence: Json, basis: str, needs_material: bool) -> str:
    """The first sentence of every decision: how much better or worse, of what."""
    if evidence.get("force") is True:
        return "by force, without the statistics"
    against = "the loss of the base rate" if evidence.get("kind") == "first" else "the champion's loss"
    said = basis or ("not materially better" if needs_material else "not better")
    b = evidence.get("overall")
    if not isinstance(b, Mapping) or not all(_number(b.get(k)) for k in ("mean", "upper", "loss")) or not b["loss"]:
        return f"{said}: no comparison with {against}"
    return f"{said}: {b['mean'] / b['loss']:+.2%} (upper bound {b['upper'] / b['loss']:+.2%}) of {against}"


def _told(code: str, evidence: Json) -> str:
    at = functools.partial(_at, evidence)
    if code.startswith("slice "):
        name = code.removeprefix("slice ")
        upper, loss = at("slices", name, "upper"), at("slices", name, "loss")
        share = f" (upper bound {upper / loss:+.1%})" if upper is not None and loss else ""
        return f"slice {name}: not shown to be within {limits()['slice_margin']:.0%}{share}"
    if code.startswith("group "):
        name, most = code.removeprefix("group "), limits()["group_margin"]
        span = f"[{_say(at('groups', name, 'low'))}, {_say(at('groups', name, 'high'))}]"
        return f"group {name}: gap between promise and truth in {span}, perhaps {_say(at('groups', name, 'wider'))} wider than the champion's; {most} is allowed"
    if code == "rows":
        return f"{_say(at('overall', 'rows'), '.0f')} labelled events; expected at least {limits()['rows']:.0f}"
    if code == "calibration":
        return f"calibration error {_say(at('calibration', 'challenger'))} above {limits()['calibration']}"
    return _TEXTS.get(code, code)


def _at(evidence: Json, *path: str) -> float | None:
    value: object = evidence
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if _number(value) else None  # type: ignore[return-value]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _say(value: float | None, form: str = ".3f") -> str:
    return "unknown" if value is None else format(value, form)
