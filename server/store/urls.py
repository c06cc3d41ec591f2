"""A store's URL as it may be shown: in a log, in an error."""

import re

HIDDEN = "***"
AUTHORITY = r"(\[[0-9A-Fa-f:.]+\]|[^:,\[\]]*)(:\d*)?"  # a host, and a port that is a number
SEVERAL = rf"{AUTHORITY}(,{AUTHORITY})*"


def shown_url(url: str) -> str:
    """The URL without what may be a secret, however it is spelled: its user, its password, its query.

    What is not understood is hidden rather than guessed at.
    """
    if url.startswith("sqlite:") and not url.startswith("sqlite://"):
        return url
    scheme, slashes, rest = url.partition("://")
    if not slashes or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        # nothing with which a user is told from a host; a plain word or a path is none
        return url if re.fullmatch(r"[\w./-]*", url) else HIDDEN
    head, query = _parted(rest)
    has_user, place = _after_user(head)
    if _has_at(query):  # a password with a question mark, or a query with an address: which is not known
        return f"{scheme}://{HIDDEN}"
    authority, slash, path = place.partition("/")
    if not re.fullmatch(SEVERAL if "+" in scheme else AUTHORITY, authority):
        return f"{scheme}://{HIDDEN}"
    shown_user = f"{HIDDEN}@" if has_user else ""
    return f"{scheme}://{shown_user}{authority}{slash}{path}" + (f"?{HIDDEN}" if query else "")


def without(text: str, secrets: tuple[str, ...]) -> str:
    """A text in which these secrets are hidden."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _parted(rest: str) -> tuple[str, str]:
    """What stands before the query or the fragment, and these."""
    end = re.search(r"[?#]", rest)
    return (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])


def _has_at(text: str) -> bool:
    return re.search("@|%40", text) is not None


def _after_user(head: str) -> tuple[bool, str]:
    """Whether there is an at sign, percent-encoded or not, and what stands after the last."""
    signs = list(re.finditer("@|%40", head))
    return (True, head[signs[-1].end() :]) if signs else (False, head)
