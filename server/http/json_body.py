"""Large JSON bodies, read in steps that others' turns come between.

Python's parser and pydantic's hold the interpreter until they are done, in whatever thread: a tenth of a second for
16 MB of numbers, four for empty lists. This one is Python's own scanner in Python, which stops at limits and leaves
what is simple to the quick one, a piece at a time.
"""

import json
import re
from collections.abc import Callable
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed has neither
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from starlette.exceptions import HTTPException

from server.http.schemas.base import Integers
from server.limits import MAX_CONTAINERS, MAX_ITEMS, MAX_NAMES

PIECE = 2**16  # characters
MAX_DIGITS = 4300  # of a number; Python has the same for integers
SPACE = re.compile(r"[ \t\n\r]*+")
NUMBERS = re.compile(r"[-0-9, \t\n\r]*+")
# what may not be cut: a pair of surrogates is one character
CHARACTERS = re.compile(
    r'(?:[^"\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.){1,4096}+', re.DOTALL
)

Scan = Callable[[str, int], tuple[Any, int]]


def read(body: bytes) -> Any:
    """What a body says.

    Lists of whole numbers alone are `Integers`.

    Raises:
        JSONDecodeError, UnicodeDecodeError, RecursionError: it is no JSON; ValueError: a number has too many digits.
        HTTPException: more lists and objects, or names in one of them, than any request needs.
    """
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    return _Decoder().decode(text)


class _Decoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(parse_float=_float)
        self.parse_object, self.parse_array, self.parse_string = self._object, self._array, _string
        self.scan_once = py_make_scanner(self)
        self._containers = 0

    def _object(self, at: tuple[str, int], strict: bool, scan: Scan, *_: Any) -> tuple[dict[str, Any], int]:
        self._count()
        text, end = at
        found: dict[str, Any] = {}
        end = _after_space(text, end)
        if text.startswith("}", end):
            return found, end + 1
        while True:
            if not text.startswith('"', end):
                raise JSONDecodeError("Expecting property name enclosed in double quotes", text, end)
            name, end = _string(text, end + 1, strict)
            end = _after(":", text, end)
            found[name], end = _value(scan, text, end)
            if len(found) > MAX_NAMES:
                raise HTTPException(413, f"an object of the body has over {MAX_NAMES} names")
            end = _after_space(text, end)
            if text.startswith("}", end):
                return found, end + 1
            end = _after(",", text, end)

    def _array(self, at: tuple[str, int], scan: Scan) -> tuple[list[Any], int]:
        self._count()
        text, end = at
        values, end = _numbers(text, end)
        are_numbers = bool(values)
        end = _after_space(text, end)
        if text.startswith("]", end) and not values:
            return values, end + 1
        while True:
            value, end = _value(scan, text, end)
            values.append(value)
            are_numbers = (are_numbers or len(values) == 1) and type(value) is int
            if len(values) > MAX_ITEMS and not are_numbers:
                raise HTTPException(413, f"a list of the body has over {MAX_ITEMS} items that are not all integers")
            end = _after_space(text, end)
            if text.startswith("]", end):
                return Integers(values) if are_numbers else values, end + 1
            end = _after(",", text, end)

    def _count(self) -> None:
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise HTTPException(413, f"the body has over {MAX_CONTAINERS} lists and objects")


def _numbers(text: str, start: int) -> tuple[list[int], int]:
    """Whole numbers from here on as far as a piece has nothing else, and the place after the last one's comma."""
    values: list[int] = []
    while (comma := text.rfind(",", start, start + PIECE)) > 0 and NUMBERS.fullmatch(text, start, comma):
        try:
            found = json.loads(f"[{text[start:comma]}]")
        except JSONDecodeError as error:
            raise JSONDecodeError(error.msg, text, start + error.pos - 1) from None
        if not found:
            raise JSONDecodeError("Expecting value", text, _after_space(text, start))
        values += found
        start = comma + 1
    return values, start


def _string(text: str, start: int, strict: bool = True) -> tuple[str, int]:
    """The string whose first character is here, and the place after its quotation mark."""
    parts, end = [], start
    while not text.startswith('"', end):
        found = CHARACTERS.match(text, end)
        if found is None:
            raise JSONDecodeError("Unterminated string starting at", text, start - 1)
        try:
            parts.append(scanstring(f'{found[0]}"', 0, strict)[0])
        except JSONDecodeError as error:
            raise JSONDecodeError(error.msg, text, end + error.pos) from None
        end = found.end()
    return "".join(parts), end + 1


def _value(scan: Scan, text: str, start: int) -> tuple[Any, int]:
    try:
        return scan(text, _after_space(text, start))
    except StopIteration as stop:
        raise JSONDecodeError("Expecting value", text, stop.value) from None


def _after(character: str, text: str, start: int) -> int:
    """The place after this character and the space around it, which has to be there."""
    place = _after_space(text, start)
    if not text.startswith(character, place):
        raise JSONDecodeError(f"Expecting {character!r} delimiter", text, place)
    return _after_space(text, place + 1)


def _after_space(text: str, start: int) -> int:
    found = SPACE.match(text, start)
    assert found is not None
    return found.end()


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"value has {len(digits)} digits")
    return float(digits)
