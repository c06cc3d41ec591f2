"""A wheel that pip gets for what is inside it, not to be installed."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path


def download_wheel(name: str, version: str, folder: Path) -> Path:
    """The wheel of a package, without its dependencies, as this environment's pip is set up to get packages.

    Raises:
        OSError: pip could not get it, with pip's last words.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "2", "--dest", str(folder)]
    done = subprocess.run([*command, *options, f"{name}=={version}"], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        words = done.stderr.strip().rpartition("\n")[2].removeprefix("ERROR: ") or "it gave no reason"
        raise OSError(f"pip could not get {name}=={version} (is there a network?): {words}")
    return wheels[0]


def require_digest(wheel: Path, sha256: str) -> None:
    """
    Raises:
        ValueError: the file is another than the one that was pinned.
    """
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{wheel.name} has the SHA-256 {found}; expected {sha256}")


def extract(wheel: Path, member: str, folder: Path) -> Path:
    """One file of a wheel, written below `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(member, folder))
