"""Imports go one way: no circle, not even through a function, and no folder imports one of a higher floor."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUND, DATA, TRAINING = "modeling_lung_srad", "dataset_scripts", "training"
# The folders that each folder may import, beside itself.
FLOORS = {
    GROUND: set(),
    DATA: {GROUND},
    TRAINING: {GROUND, DATA},
    # The sounds of its examples are simulated.
    "space_demo": {GROUND, DATA},
    "lung_srad_cli": {GROUND, DATA, TRAINING, "space_demo"},
    "benchmarks": {GROUND, DATA, TRAINING, "space_demo"},
    "examples": {GROUND, DATA},
}


def read_modules(root, folders):
    """Sources of all modules by their dotted names; a package has the name of its folder."""
    modules = {}
    for folder in folders:
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def read_imports(modules):
    """The modules that each module imports, at its top or inside a function."""
    return {name: set(_imports_of(name, path, modules)) for name, path in modules.items()}


def _imports_of(name, path, modules):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                found = f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules else source
                if found in modules:
                    yield found


def find_circle(imports):
    """Modules of which each imports the next and the last imports the first; empty where there are none."""
    done = set()

    def follow(name, path):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for imported in sorted(imports[name]):
            if circle := follow(imported, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(imports) if (circle := follow(name, []))), [])


def find_climbs(imports, floors):
    """Imports of a folder that the importing one may not import."""
    pairs = ((name, imported) for name in sorted(imports) for imported in sorted(imports[name]))
    folders = ((name, imported, name.partition(".")[0], imported.partition(".")[0]) for name, imported in pairs)
    return [(name, other) for name, other, above, below in folders if below not in {above, *floors[above]}]


def test_no_module_imports_itself_through_others():
    assert find_circle(read_imports(read_modules(ROOT, FLOORS))) == []


def test_no_folder_imports_one_of_a_higher_floor():
    assert find_climbs(read_imports(read_modules(ROOT, FLOORS)), FLOORS) == []


def test_circles_and_climbs_are_found(tmp_path):
    sources = {
        "low/__init__.py": "",
        "low/room/__init__.py": "from .inner import x\n",
        "low/room/inner.py": "from ..top import y\n",
        "low/top.py": "def later():\n    from low import room\n",
        "high/__init__.py": "import low.top\n",
        "low/climber.py": "from high import z\n",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    imports = read_imports(read_modules(tmp_path, ("low", "high")))
    assert set(find_circle(imports)) == {"low.room", "low.room.inner", "low.top"}
    assert find_climbs(imports, {"low": set(), "high": {"low"}}) == [("low.climber", "high")]
