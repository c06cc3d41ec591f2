"""What stands beside the code names it rightly: pins, targets, settings, metrics."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server.metrics import Metrics
from server.settings import load_settings, unknown_names

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
# In prose between backticks; else alone on a line, with variables or a comment: "make sure that" is no command
COMMAND = re.compile(r"(?:`|^ *(?:\$ )?)make ([a-z-]+)(?=`| +[A-Z]+=| *#| *$)", re.MULTILINE)


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _has_otel() -> bool:
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.sdk") is not None


def _needed(requirements: list[Requirement]) -> set[str]:
    """Names of all that the requirements bring here, themselves included."""
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        extras = {"", *requirement.extras}
        brought = map(Requirement, requires(requirement.name) or [])
        waiting.extend(
            one for one in brought if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)
        )
    return {canonicalize_name(Requirement(text).name) for text in seen}


def test_every_dependency_has_one_exact_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    here = ["server", "train", "dev", *(["ci"] if find_spec("lm_eval") else []), *(["otel"] if _has_otel() else [])]
    here += [*(["bulk"] if find_spec("ray") else []), *(["search"] if find_spec("faiss") else [])]
    texts = project["dependencies"] + [text for extra in here for text in extras[extra]]
    requirements = [one for one in map(Requirement, texts) if one.name != project["name"]]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}
    assert [str(pin) for pin in pins.values() if not re.fullmatch(r"==[\w.]+", str(pin.specifier))] == []
    missing = _needed(requirements) - pins.keys()
    # torch's CUDA build brings libraries, which it pins itself
    assert [name for name in missing if not re.match("nvidia-|cuda-|triton$", name)] == []
    for requirement in requirements:
        (pinned,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pinned.version), f"{pinned} is outside of {requirement}"


def test_alerts_use_metrics_that_exist() -> None:
    metrics = Metrics()
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"], "gauge": [""]}
    exposed = {family.name + end for family in metrics.registry.collect() for end in suffixes[family.type]}
    config = _yaml(PROMETHEUS / "prometheus.yml")
    rules = [
        rule for file in config["rule_files"] for group in _yaml(PROMETHEUS / file)["groups"] for rule in group["rules"]
    ]
    expressions = " ".join(rule["expr"] for rule in rules)
    used = set(re.findall(r"(?<!\")\bautocompressor_\w+", expressions))
    assert used
    assert used <= exposed
    assert set(re.findall(r'job="(\w+)"', expressions)) == {job["job_name"] for job in config["scrape_configs"]}


def test_compose_and_image_set_known_settings() -> None:
    compose = _yaml(ROOT / "docker-compose.yml")["services"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    image = dict(re.findall(r"^(?:ENV)? +(AUTOCOMPRESSOR_\w+)=(\S+)", dockerfile, re.MULTILINE))
    environment = image | compose["server"]["environment"]
    assert image
    assert unknown_names(environment) == []
    flags = {name.removeprefix("AUTOCOMPRESSOR_").lower(): value for name, value in environment.items()}
    settings = load_settings({}, flags)
    assert settings.host == "0.0.0.0"
    assert re.fullmatch(r"redis://(\w+):6379/0", settings.store).group(1) in compose  # type: ignore[union-attr]
    assert f"EXPOSE {settings.port}\n" in dockerfile
    (scraped,) = _yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == f"server:{settings.metrics_port}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_documented_targets_exist() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"), ROOT / ".ci" / "run"]
    targets = {target for document in documents for target in COMMAND.findall(document.read_text())}
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    dry_run = ["make", "--dry-run", *sorted(targets | {"check", "train"}), "DATA=documents"]
    made = subprocess.run(dry_run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_the_image_s_builder_gets_what_it_copies() -> None:
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    let_through = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)
