"""The shape of the house: which way imports point, and what imports without what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedsim", "strategies", "clients", "experiments")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

MAY_IMPORT = {
    "fedsim": {"fedsim"},
    "strategies": {"fedsim", "strategies"},
    "clients": {"fedsim", "clients"},
    "experiments": set(PACKAGES),
}

KERNEL_ROOMS = ["training", "models", "privacy"]
"""Rooms that benchmarks use on machines without Flower and datasets."""


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_one_way(path):
    rooms = {name.split(".")[0] for name in imported(tree_of(path))} & set(PACKAGES)
    assert rooms <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_says_what_question_it_answers(path):
    assert path.stat().st_size == 0 or ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_global_random_state(path):
    """Draws come from `fedsim.rng`; its `seeded_globals` is the one place that touches `random`."""
    if path == ROOT / "fedsim" / "rng.py":
        return
    tree = tree_of(path)
    assert "random" not in set(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            assert not name.endswith(("torch.manual_seed", "random.seed", "random.default_rng"))
            if name.startswith(("np.random.", "numpy.random.")):
                assert name.split(".")[2] in ("Generator", "Philox")


def test_kernel_rooms_and_benchmarks_import_without_flower_and_datasets():
    benches = [ROOT / "experiments" / f"bench_{name}.py" for name in ("dpsgd", "cohort")]
    rooms = [path for room in KERNEL_ROOMS for path in (ROOT / "fedsim" / room).rglob("*.py")]
    files = [*rooms, *benches]
    modules = sorted(path.relative_to(ROOT).with_suffix("") for path in files)
    names = [".".join(module.parts).removesuffix(".__init__") for module in modules]
    script = f"""
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flwr", "flwr_datasets", "datasets"):
            raise ModuleNotFoundError(f"{{name}} is blocked here")

sys.meta_path.insert(0, Blocked())
for name in {names}:
    importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_packages_resolve_their_names_lazily():
    script = "import sys, fedsim, experiments; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60)
    assert done.returncode == 0
