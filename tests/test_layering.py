"""Who may import whom, kept on the source text (docs/architecture.md draws it)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("autocompressor", "model", "server", "training")

# the floors of `server`, top to bottom; a file imports from floors below its own only
FLOORS = [
    {"server.cli"},
    {"server.commands"},
    {"server.serving", "server.in_process"},
    {"server.app"},
    {"server.envelope"},
    {"server.routes.native", "server.routes.openai", "server.routes.completions", "server.routes.chat"}
    | {"server.routes.health", "server.routes.page"}
    | {"server.routes.summaries", "server.routes.rerank", "server.routes.jobs", "server.routes.tokens"},
    {"server.routes.compress"},
    {"server.routes.choices", "server.routes.sse", "server.routes.prepared"},
    {"server.routes.sampling", "server.routes.answers"},
    {"server.routes.receipts"},
    {"server.routes.waiting", "server.services", "server.access", "server.log", "server.devices", "server.cores"}
    | {"server.checkpoints"},
    {"server.fusing", "server.reranking"},
    {"server.endless", "server.expansion", "server.chat_template"},
    {"server.prompting", "server.intake", "server.portable"},
    {"server.gathering"},
    {"server.compression"},
    {"server.summaries", "server.work", "server.retention"},
    {"server.segments"},
    {"server.store_calls"},
    {"server.engine", "server.store", "server.served_model", "server.patience", "server.jobs"},
    {
        "server.chain",
        "server.forgetting",
        "server.schemas",
        "server.settings",
        "server.metrics",
        "server.errors",
        "server.single_flight",
        "server.progress",
        "server.together",
        "server.terminal",
    },
]
# one floor each, whose own files are below
FOLDERS = ("server.commands", "server.engine", "server.store", "server.schemas")


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


def floor_of(module: str) -> int | None:
    for index, floor in enumerate(FLOORS):
        if module in floor or any(module.startswith(f"{folder}.") for folder in FOLDERS if folder in floor):
            return index
    return None


@pytest.mark.parametrize("path", files("server"), ids=module_name)
def test_server_imports_point_down(path: Path) -> None:
    module = module_name(path)
    if module in ("server", "server.commands", "server.routes", "server.schemas"):
        assert path.read_text() == ""
        return
    own = floor_of(module)
    assert own is not None, f"{module} has no floor: add it to FLOORS"
    folder = next((folder for folder in FOLDERS if module.startswith(folder)), None)
    for imported in imports(path):
        if imported.split(".")[0] != "server" or (folder and imported.startswith(folder)):
            continue
        floor = floor_of(imported)
        assert floor is not None, f"{module} imports {imported}, which has no floor"
        assert floor > own, f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("autocompressor", {"model", "server", "training", "torch"}),
        ("model", {"autocompressor", "server", "training"}),
        ("server", {"training"}),
        ("training", {"autocompressor", "server"}),
    ],
)
def test_packages_point_to_model(package: str, forbidden: set[str]) -> None:
    for path in files(package):
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & forbidden, f"{module_name(path)} imports {used & forbidden}"


def test_engine_and_store_do_not_know_fastapi_nor_each_other() -> None:
    for path in [*files("server/engine"), *files("server/store")]:
        used = imports(path)
        assert not {name.split(".")[0] for name in used} & {"fastapi", "starlette"}
        other = "server.store" if "engine" in path.parts else "server.engine"
        assert not any(name.startswith(other) for name in used)


@pytest.mark.parametrize("name", ["scheduler", "requests", "detokenizer"])
def test_the_engine_s_policy_has_no_tensors(name: str) -> None:
    used = imports(ROOT / "server" / "engine" / f"{name}.py")
    assert not {module.split(".")[0] for module in used} & {"torch", "transformers", "threading", "asyncio"}


def test_only_settings_the_command_line_and_a_default_read_the_environment() -> None:
    readers = [
        module_name(path)
        for package in PACKAGES
        for path in files(package)
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    assert readers == ["model.data_directory", "server.cli"]


def test_no_import_inside_a_function() -> None:
    for package in PACKAGES:
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
