"""Settings that name several things in one line."""


def listed(names: str) -> list[str]:
    """The names between commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def pair(text: str, setting: str, form: str) -> tuple[str | None, str]:
    """A name and what it stands for, NAME=WHAT; None for the name where there is no `=`.

    Raises:
        ValueError: nothing stands before or behind it; `form` says in which form `setting` takes them.
    """
    name, is_named, what = (part.strip() for part in text.partition("="))
    if is_named and not (name and what):
        raise ValueError(f"{setting} has {text!r}; it takes {form}")
    return (name, what) if is_named else (None, text)
