"""What the image installs: pinned as everywhere, by hash, from no index in particular, its licences listed."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HASHED = ROOT / "requirements-server.txt"
# torch's CUDA build brings libraries, which it pins itself and constraints.txt does not name
CUDA = re.compile("nvidia-|cuda-|triton$")


def _entries() -> dict[str, tuple[Requirement, list[str]]]:
    """Name: requirement, and its hashes."""
    text = re.sub(r"^#.*\n", "", HASHED.read_text(), flags=re.MULTILINE)
    found = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        first, *hashes = re.split(r" \\\n +--hash=", entry)
        requirement = Requirement(first)
        found[canonicalize_name(requirement.name)] = requirement, hashes
    return found


def _pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in map(Requirement, lines)}


def _here(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"})


def test_each_file_is_pinned_by_hash_and_as_everywhere() -> None:
    entries, pins = _entries(), _pins()
    assert "torch" in entries
    for name, (requirement, hashes) in entries.items():
        assert hashes, f"{name} has no hash: `make hashes`"
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes)
        if _here(requirement) and not CUDA.match(name):
            assert str(requirement.specifier) == pins[name], f"{name} is pinned otherwise: `make hashes`"


def test_what_the_image_installs_is_what_the_server_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = map(Requirement, project["dependencies"] + project["optional-dependencies"]["server"])
    missing = {canonicalize_name(one.name) for one in needed} - _entries().keys()
    assert not missing, "`make hashes`"


def test_no_index_is_named() -> None:
    assert not re.search("://|--(extra-)?index|--find-links", HASHED.read_text())


def test_licences_are_listed() -> None:
    rows = re.findall(
        r"^\| ([\w.-]+) \| ([\w.+-]+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE
    )
    listed = {canonicalize_name(name): (version.partition("+")[0], licence) for name, version, licence in rows}
    installed = {
        name: str(requirement.specifier).removeprefix("==")
        for name, (requirement, _) in _entries().items()
        if requirement.marker is None and not CUDA.match(name)
    }
    assert {name: version for name, version in installed.items() if listed.get(name, ("",))[0] != version} == {}
    # what would bind whoever distributes the image to more than notices
    assert [name for name, (_, licence) in listed.items() if re.search("GPL|SSPL|UNKNOWN", licence)] == []
