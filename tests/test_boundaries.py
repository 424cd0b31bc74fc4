"""The walls of the house: who may import a GUI, who may import torch, what no module may hold."""

from __future__ import annotations

import ast
import functools
import gc
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from run_python import run_python

SOURCE = Path(__file__).resolve().parent.parent / "src" / "napari_skipseg"
FILES = sorted(SOURCE.rglob("*.py"))
GUI = ("napari", "qtpy", "PyQt6", "PySide6", "magicgui", "superqt", "pyqtgraph", "vispy")

# Names of modules, and of packages with all they hold. All others must load without torch.
MAY_IMPORT_TORCH = (
    "napari_skipseg.networks",
    "napari_skipseg.inference.activations",
    "napari_skipseg.inference.dropout",
    "napari_skipseg.inference.system_report",
    "napari_skipseg.inference.backends.folding",
    "napari_skipseg.inference.backends.torch_backend",
    "napari_skipseg.inference.backends.torch_backend",
    "napari_skipseg.training",
    "napari_skipseg.studies",
    "napari_skipseg.models.exchange.import_package",
    "napari_skipseg.models.exchange.network_files",
    "napari_skipseg.models.exchange.package",
)
LOADS_WITHOUT_TORCH = (
    "napari_skipseg.scoring.files",
    "napari_skipseg.studies.inspection",
    "napari_skipseg.networks.presets",
    "napari_skipseg.networks.specs",
    "napari_skipseg.training.flags",
    "napari_skipseg.training.settings",
)
UNSAFE_MODULES = ("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
LINES_OF_A_MODULE = 500
LINES_OF_A_FUNCTION = 60

IMPORT_ALL = """
import importlib, json, sys

asked = json.loads(sys.argv[1])


class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in asked["blocked"]:
            raise ImportError(f"{name} is a GUI package, and the engine has none")


sys.meta_path.insert(0, Wall())
troubles = {}
for name in asked["modules"]:
    try:
        importlib.import_module(name)
    except Exception as error:
        troubles[name] = f"{type(error).__name__}: {error}"
    if "torch" in sys.modules and name in asked["light"]:
        troubles[name] = "imports torch"
        break
print("\\n" + json.dumps(troubles))
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [module_name(path) for path in FILES if path.name != "__main__.py"]


def is_within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def is_gui(module: str) -> bool:
    return is_within(module, ("napari_skipseg.widgets",))


def may_import_torch(module: str) -> bool:
    return is_within(module, MAY_IMPORT_TORCH) and module not in LOADS_WITHOUT_TORCH


def troubles_of_importing(light: list[str], heavy: list[str], blocked: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what fails if each is imported in a fresh process, up to the first light one that loads torch."""
    asked = json.dumps({"modules": [*light, *heavy], "light": light, "blocked": blocked})
    ended = run_python(IMPORT_ALL, asked, QT_QPA_PLATFORM="offscreen", QT_API=os.environ.get("QT_API", "pyqt6"))
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


@functools.cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Return each node of the sources with its file."""
    gc.disable()  # it would look at 400,000 nodes again and again: 5 s instead of 1
    try:
        return [
            (path.relative_to(SOURCE), node)
            for path in FILES
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        ]
    finally:
        gc.enable()


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def is_call_of(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def is_unsafe(node: ast.AST) -> bool:
    """Whether the node brings a pickle in: by a module, by `torch.load`, or by an argument that allows it."""
    if any(name.partition(".")[0] in UNSAFE_MODULES or name == "torch.load" for name in imported_names(node)):
        return True
    if isinstance(node, ast.Attribute) and node.attr == "load":
        return isinstance(node.value, ast.Name) and node.value.id == "torch"
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        return (node.arg, node.value.value) in (("weights_only", False), ("allow_pickle", True))
    return False


def test_the_package_is_found() -> None:
    assert {"napari_skipseg", "napari_skipseg.errors", "napari_skipseg.networks.specs"} <= set(MODULES)


def test_the_engine_loads_where_no_gui_is_installed_and_all_but_networks_and_training_without_torch() -> None:
    engine = [name for name in MODULES if not is_gui(name)]
    light = [name for name in engine if not may_import_torch(name)]
    assert troubles_of_importing(light, [name for name in engine if name not in light], blocked=GUI) == {}


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    heavy = ("torch", "scipy", "zarr", "tifffile", "numba", "dask", "napari_skipseg.images.files")
    code = f"import sys\nfrom napari_skipseg import cli\nprint([name for name in {heavy} if name in sys.modules])"
    assert run_python(code).stdout == "[]\n"


def test_the_panel_opens_without_what_only_its_buttons_need() -> None:
    """Of its processor time, scipy and scikit-image took 0.2 s, and zarr 0.15 s."""
    if not importlib.util.find_spec("napari"):
        pytest.skip("napari is not installed")
    late = ("scipy.ndimage", "scipy.sparse", "scipy.special", "skimage.measure", "skimage.metrics", "zarr", "torch")
    code = (
        "import sys\nimport napari._qt.qt_main_window\nknown = set(sys.modules)\nimport napari_skipseg.widgets.panel\n"
        f"print(sorted({set(late)} & (set(sys.modules) - known)))"
    )
    assert run_python(code).stdout == "[]\n"


def test_gui_never_loads_torch() -> None:
    if not all(importlib.util.find_spec(name) for name in ("napari", "qtpy")):
        pytest.skip("napari is not installed")
    gui = [name for name in MODULES if is_gui(name)]
    assert troubles_of_importing(gui, []) == {}


def test_only_widgets_name_a_gui_package() -> None:
    offenders = [
        (str(path), name)
        for path, node in nodes()
        for name in imported_names(node)
        if name.partition(".")[0] in GUI and path.parts[0] != "widgets"
    ]
    assert offenders == []


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules that import each other, directly or by way of others, as sorted groups (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for imported in sorted(imports[module]):
            if imported not in order:
                visit(imported)
            if imported in path:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == order[module]:
            group = [path.pop()]
            while group[-1] != module:
                group.append(path.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return found


def test_modules_import_each_other_in_no_circle() -> None:
    """Imports inside functions count too."""
    graph = grimp.build_graph("napari_skipseg", cache_dir=None)
    found = circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    assert found == []


def test_no_object_holds_a_tab() -> None:
    """Only the panel knows the tabs; everything else gets values and callables, so it cannot reach into a tab."""
    tabs = {path for path in FILES if path.name == "tab.py"}
    names = {node.name for path, node in nodes() if isinstance(node, ast.ClassDef) and SOURCE / path in tabs}
    names = {name for name in names if name.endswith("Tab")}
    importers = {
        str(path)
        for path, node in nodes()
        if any(name.startswith("napari_skipseg.widgets.") and name.endswith(".tab") for name in imported_names(node))
    }
    holders = {
        (str(path), node.arg)
        for path, node in nodes()
        if isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) in names
    }
    assert len(tabs) == len(names) == 7
    assert importers == {"widgets/panel.py"}
    assert {path for path, _ in holders} <= {"widgets/panel.py"}


def test_a_circle_is_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "e"}}
    assert circles(imports) == [["b", "c"]]


def test_no_pickle_is_ever_loaded() -> None:
    assert [(str(path), node.lineno) for path, node in nodes() if is_unsafe(node)] == []


@pytest.mark.parametrize(
    ("code", "unsafe"),
    [
        ("import pickle", True),
        ("from torch import load", True),
        ("torch.load(path)", True),
        ("torch.hub.load_state(path, weights_only=False)", True),
        ("numpy.load(path, allow_pickle=True)", True),
        ("numpy.load(path, allow_pickle=False)", False),
        ("safetensors.torch.load_file(path)", False),
    ],
)
def test_a_pickle_is_recognised(code: str, unsafe: bool) -> None:
    assert any(is_unsafe(node) for node in ast.walk(ast.parse(code))) is unsafe


def test_no_module_is_too_long() -> None:
    lengths = {str(path.relative_to(SOURCE)): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > LINES_OF_A_MODULE} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{path}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > LINES_OF_A_FUNCTION} == {}


def test_source_holds_no_assert() -> None:
    assert [(str(path), node.lineno) for path, node in nodes() if isinstance(node, ast.Assert)] == []


def test_source_holds_no_print() -> None:
    prints = [(str(path), node.lineno) for path, node in nodes() if is_call_of(node, "print")]
    assert prints == []


def test_source_holds_no_todo() -> None:
    left = re.compile(r"\b(TODO|FIXME|XXX)\b")
    assert [str(path) for path in FILES if left.search(path.read_text(encoding="utf-8"))] == []


TWICE = {
    "Result": "type variables of generators, a name of their own each would say nothing more",
    "app": "the typer groups of commands, as typer's own examples call them",
    "finetune": "the command and the function of Python do the same",
    "main": "two programs: the command line and the engine's process",
    "segment": "the command and the function of Python do the same",
    "suggest": "the command and the function of Python do the same",
}
"""Public names that more than one module defines, and why that is right."""


def public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def test_a_public_name_has_one_meaning() -> None:
    owners: dict[str, list[str]] = {}
    for path, tree in nodes():
        for name in public_names(tree) if isinstance(tree, ast.Module) else ():
            owners.setdefault(name, []).append(str(path))
    assert {name for name, modules in owners.items() if len(modules) > 1} == set(TWICE)


def test_every_test_file_has_a_name_of_its_own() -> None:
    """Without packages, pytest knows a test file by its name alone."""
    names = [file.name for file in Path(__file__).parent.rglob("*.py") if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
