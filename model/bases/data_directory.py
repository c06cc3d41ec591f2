"""Where what is fetched once is kept for this user."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "AUTOCOMPRESSOR_DATA"


def default_data_directory(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The directory of AUTOCOMPRESSOR_DATA, else the platform's place for a user's data; it need not be there yet.

    That is `Library/Application Support` on macOS, and elsewhere what the XDG base directory specification says, which
    passes over a relative XDG_DATA_HOME.
    """
    if chosen := environment.get(VARIABLE):
        return Path(chosen)
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "autocompressor"
    shared = Path(environment.get("XDG_DATA_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".local" / "share") / "autocompressor"
