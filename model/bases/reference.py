"""Which base a checkpoint belongs to that does not hold it: a name, and a digest of its weights."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from model.fingerprint import tensor_bytes


@dataclass(frozen=True)
class BaseReference:
    """Attributes: `name`, a hub id or a path; `revision` on the hub, None for any; `digest` of `weights_digest`."""

    name: str
    revision: str | None
    digest: str

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "BaseReference":
        """Read what `write` wrote; ValueError where it is something else."""
        try:
            return cls(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not name a base: {error}") from error

    def require(self, directory: Path) -> None:
        """Refuse a directory whose weights are others; ValueError."""
        found = weights_digest(directory)
        if found != self.digest:
            raise ValueError(
                f"the base in {directory} is not the one that the checkpoint was trained on: its weights have the "
                f"digest {found[:16]}..., and {self.name} had {self.digest[:16]}..."
            )


def weights_digest(directory: Path) -> str:
    """SHA-256, in hex, of every tensor in a directory's safetensors files: name, dtype, shape, bytes, by name.

    Raises:
        FileNotFoundError: there are none. ValueError: one is damaged.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{directory} has no .safetensors files")
    where: dict[str, Path] = {}
    try:
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                where |= dict.fromkeys(tensors.keys(), file)
        digest = hashlib.sha256()
        for name in sorted(where):
            with safe_open(where[name], framework="pt") as tensors:
                tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
    except SafetensorError as error:
        raise ValueError(f"the weights in {directory} are damaged: {error}") from error
    return digest.hexdigest()
