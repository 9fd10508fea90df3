"""The rooms and the one direction of imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["pipeline", "monitoring", "producers", "stream_processors", "batch", "serving"]
MODULES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names & {*ROOMS, "tests"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path):
    room = path.relative_to(ROOT).parts[0]
    assert imported_rooms(path) <= set(ROOMS[: ROOMS.index(room) + 1])


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_imports_nothing_by_itself(room):
    tree = ast.parse((ROOT / room / "__init__.py").read_text())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_module_says_whether_it_is_pure_or_an_edge(path):
    assert (ast.get_docstring(ast.parse(path.read_text())) or "").startswith(("PURE.", "EDGE."))


PURE = [p for p in MODULES if (ast.get_docstring(ast.parse(p.read_text())) or "").startswith("PURE.")]


@pytest.mark.parametrize("path", PURE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_pure_module_touches_no_client_clock_or_environment(path):
    tree = ast.parse(path.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {"confluent_kafka", "faust", "bentoml", "mlflow", "os", "subprocess", "socket", "requests", "httpx"} & (
        names | modules
    )
    assert "pipeline.kafka" not in modules


def test_nothing_unpickles_evaluates_or_loads_unsafe_yaml():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "pickle" not in ast.unparse(node), path
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"exec", "pickle.loads", "yaml.load", "os.system"}, (path, name)
                assert not any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords), path
