"""The program `autocompressor`, which is the server's, and says so where only the client is installed."""

import importlib
import importlib.util
import sys


def main() -> None:
    if not all(map(importlib.util.find_spec, ("typer", "rich", "pydantic_settings"))):
        sys.exit("autocompressor: the program needs an extra: pip install 'autocompressor[server]'")
    importlib.import_module("server.cli.main").main()


if __name__ == "__main__":
    main()
