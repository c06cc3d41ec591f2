"""Large JSON bodies: read as Python's own parser reads them, up to limits, in steps."""

import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from server.http import json_body
from server.http.json_body import read
from server.http.schemas.base import Integers
from server.limits import MAX_CONTAINERS, MAX_ITEMS, MAX_NAMES

VALUES: list[Any] = [
    {"text": 'Größe\n"東京" \\ / \x7f 😀', "": None, "a": {"b": [True, False, None, -1.5e300, 0, [], {}]}},
    {"token_ids": list(range(-50, 50)), "more": [1, 2, 3, "4"], "and": [[1], [2, 3]], "last": 10**30},
    ["\ud83d", "\ude00", "\ud83d\ud83d\ude00", "\ud83d\\ude00", "😀" * 5000 + "\n" * 5000],
    [float("inf"), -0.0, 1],
    "a" * 100_000,
    7,
]
BROKEN = [
    *(
        "",
        " ",
        "[",
        "{",
        '"',
        "[1,]",
        "[1,2,3,4,5,6,7,8,9,]",
        "[,1]",
        "[1,,2,3,4,5,6,7]",
        "[01,2,3,4,5,6]",
        "[1 2,3,4]",
    ),
    *('{"a"}', '{"a":}', '{"a":1,}', "{1:2}", '{"a":1 "b":2}', '"\\x"', '"\\u12"', '"a\nb"', '"\\', "[1] 2", "nul"),
]


@pytest.fixture(params=[8, 2**16])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_body, "PIECE", request.param)
    return int(request.param)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_what_is_read_is_what_python_reads(value: Any, is_ascii: bool, indent: int | None, piece: int) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode(errors="surrogatepass")
    assert repr(read(body)) == repr(json.loads(body))


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize("text", BROKEN)
def test_a_fault_is_told_as_python_tells_it(text: str, piece: int) -> None:
    body = text.encode()
    with pytest.raises(json.JSONDecodeError) as ours:
        read(body)
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        # Python's words for a comma too many changed in 3.13
        theirs = ("Expecting", error.pos) if error.msg.startswith("Illegal trailing") else (error.msg, error.pos)
    assert ours.value.msg.startswith(theirs[0])
    assert ours.value.pos in (theirs[1], theirs[1] + 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[]] * MAX_CONTAINERS, f"over {MAX_CONTAINERS} lists and objects"),
        ([{}] * MAX_CONTAINERS, f"over {MAX_CONTAINERS} lists and objects"),
        ({str(number): 1 for number in range(MAX_NAMES + 1)}, f"over {MAX_NAMES} names"),
        ([""] * (MAX_ITEMS + 1), f"over {MAX_ITEMS} items"),
        ([1] * MAX_ITEMS + [0.5], f"over {MAX_ITEMS} items"),
    ],
    ids=["lists", "objects", "names", "texts", "numbers"],
)
def test_more_than_any_request_needs_is_refused(value: Any, said: str) -> None:
    """Four million empty lists, 16 MB, held every other request up for four seconds."""
    with pytest.raises(HTTPException) as refused:
        read(json.dumps(value).encode())
    assert (refused.value.status_code, said in refused.value.detail) == (413, True)


def test_a_list_of_integers_is_known_as_one(piece: int) -> None:
    for value in ([5], list(range(1000)), [*range(100_000)]):
        assert type(read(json.dumps(value).encode())) is Integers
    for value in ([], ["5"], [True], [5, True], [*range(1000), 0.5], [*range(1000), None], [None, *range(1000)]):
        assert type(read(json.dumps(value).encode())) is list


def test_numbers_of_any_length_are_refused() -> None:
    for digits in (b"1" * 5000, b"1" * 5000 + b".5"):
        with pytest.raises(ValueError, match=r"value has 500\d digits"):
            read(digits)
