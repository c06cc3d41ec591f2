"""Who may import whom, kept on the source text (docs/architecture.md draws it)."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.floors import FLOORS

ROOT = Path(__file__).parents[1]

# whole packages, and what each may know of the others
KNOWN = {"autocompressor": set(), "model": set(), "training": {"model"}, "server": {"autocompressor", "model"}}
MAX_LINES = 300
CORE_BELOW = ("server/core", "server/engine", "server/store")


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules a file imports, of `from a import b` both a and, where it is a module, a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in submodules if is_module(name)}
            found |= modules or {node.module}
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def entry_of(module: str) -> tuple[int, str] | None:
    """The floor that a module is on, and the entry that puts it there: the longest that holds it."""
    floors = FLOORS[module.split(".")[0]]
    entries = [
        (index, entry)
        for index, floor in enumerate(floors)
        for entry in floor
        if module == entry or (module.startswith(f"{entry}.") and entry not in FLOORS)
    ]
    return max(entries, key=lambda found: len(found[1]), default=None)


def is_a_folder(path: Path) -> bool:
    """Whether it is the file of a folder that has nothing of its own."""
    return path.name == "__init__.py" and not path.read_text()


def ours(path: Path, package: str) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == package}


@pytest.mark.parametrize(
    "path", [path for package in FLOORS for path in files(package) if not is_a_folder(path)], ids=module_name
)
def test_imports_point_down(path: Path) -> None:
    module = module_name(path)
    own = entry_of(module)
    assert own is not None, f"{module} is on no floor: add it to FLOORS"
    for imported in ours(path, module.split(".")[0]):
        found = entry_of(imported)
        assert found is not None, f"{module} imports {imported}, which is on no floor"
        assert found[0] > own[0] or found[1] == own[1], f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("package", KNOWN)
def test_nothing_imports_in_circles(package: str) -> None:
    graph = {module_name(path): ours(path, package) - {module_name(path)} for path in files(package)}
    tuple(TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_every_floor_is_there() -> None:
    for package, floors in FLOORS.items():
        modules = [module_name(path) for path in files(package)]
        for entry in set().union(*floors):
            assert any(module == entry or module.startswith(f"{entry}.") for module in modules), f"there is no {entry}"


@pytest.mark.parametrize("package", KNOWN)
def test_packages_point_to_model(package: str) -> None:
    for path in files(package):
        used = {name.split(".")[0] for name in imports(path)} & KNOWN.keys()
        assert used <= KNOWN[package] | {package}, f"{module_name(path)} imports {used}"


def test_the_core_knows_no_http() -> None:
    for folder in CORE_BELOW:
        for path in files(folder):
            used = {name.split(".")[0] for name in imports(path)}
            assert not used & {"fastapi", "starlette", "httpx", "uvicorn"}, module_name(path)


def test_no_file_is_long() -> None:
    long = {
        module_name(path): length
        for package in KNOWN
        for path in files(package)
        if (length := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long


def test_engine_and_store_do_not_know_each_other() -> None:
    for path in [*files("server/engine"), *files("server/store")]:
        used = imports(path)
        other = "server.store" if "engine" in path.parts else "server.engine"
        assert not any(name.startswith(other) for name in used)


@pytest.mark.parametrize("name", ["scheduler", "requests"])
def test_the_engine_s_policy_has_no_tensors(name: str) -> None:
    used = imports(ROOT / "server" / "engine" / "torch" / f"{name}.py")
    assert not {module.split(".")[0] for module in used} & {"torch", "transformers", "threading", "asyncio"}


def test_only_settings_the_command_line_and_a_default_read_the_environment() -> None:
    readers = [
        module_name(path)
        for package in KNOWN
        for path in files(package)
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    # vLLM takes some of what it is told as variables alone: the last one sets these
    assert readers == ["model.bases.data_directory", "server.cli.main", "server.engine.vllm.environment"]


def test_no_import_inside_a_function() -> None:
    for package in KNOWN:
        for path in files(package):
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    inner = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                    assert not inner, f"{module_name(path)}.{function.name} imports inside"


def test_the_bench_stands_above_the_rest_of_training() -> None:
    users = {
        module_name(path)
        for path in files("training")
        if not module_name(path).startswith("training.bench")
        and any(used.startswith("training.bench") for used in imports(path))
    }
    assert users == {"training.commands.evaluate"}
    for path in files("training/bench"):
        known = "training.bench.suites.catalogue" in imports(path)
        assert not known, f"{module_name(path)} knows the list of suites"
