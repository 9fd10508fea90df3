"""PURE. A fitted classifier as bytes that depend on the model alone, so that the same training gives the same digest.

`skops` names arrays and objects after their addresses in memory and stamps its archive with the time of day. Here the
archive is written again: arrays numbered in the order in which the schema names them, one fixed date, JSON without spaces.
`skops.io.loads` reads it as before. Knows no file and no digest.
"""

from __future__ import annotations

import io
import json
import zipfile

import skops.io
from sklearn.calibration import CalibratedClassifierCV

SCHEMA = "schema.json"
DATE = (1980, 1, 1, 0, 0, 0)  # the first that the format knows


def dumps(classifier: CalibratedClassifierCV) -> bytes:
    """Equal models, fitted in any process, give equal bytes."""
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(classifier))) as archive:
        schema = json.loads(archive.read(SCHEMA))
        names: dict[str, str] = {}
        _number(schema, names, {})
        members = {new: archive.read(old) for old, new in names.items()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, body in {**members, SCHEMA: json.dumps(schema, separators=(",", ":")).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), body)
    return made.getvalue()


def _number(node: object, names: dict[str, str], known: dict[object, int]) -> None:
    """Give each file and each `__id__` of the schema the place at which it occurs first.

    Values that stand in the schema itself get a number each: whether two equal ones were one object is the interpreter's
    choice. An object that the schema refers to again keeps being one.
    """
    if isinstance(node, list):
        for each in node:
            _number(each, names, known)
    if not isinstance(node, dict):
        return
    if "__loader__" in node:
        if "file" in node:
            node["file"] = names.setdefault(node["file"], f"{len(names)}.{node['file'].rpartition('.')[2]}")
        if "__id__" in node:
            value = node["__loader__"] in ("JsonNode", "TypeNode")
            node["__id__"] = known.setdefault(object() if value else node["__id__"], len(known) + 1)
    for each in node.values():
        _number(each, names, known)
