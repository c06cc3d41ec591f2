"""Log-probabilities of tokens that are part of a character, in OpenAI's two forms."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from server.cli.local import LocalClient
from server.core.words import Words
from tests.server.openai_calls import ASK, chat, complete, services, streamed
from tests.tiny import tiny_tokenizer

EMOJI = "😀".encode()
PARTS = [f"bytes:\\x{byte:02x}" for byte in EMOJI]


def byte_ids(client: httpx.AsyncClient) -> list[int]:
    """The emoji's tokens, a byte each."""
    ids: list[int] = services(client).model.tokenise("😀", is_start=False)
    assert len(ids) == 4
    return ids


async def test_a_chat_tells_the_bytes_that_rebuild_a_character(client: httpx.AsyncClient) -> None:
    for byte, token_id in zip(EMOJI, byte_ids(client), strict=True):
        body = await chat(client, logprobs=True, logit_bias={str(token_id): 100}, max_tokens=1)
        (token,) = body["choices"][0]["logprobs"]["content"]
        assert (token["token"], token["bytes"]) == (f"bytes:\\x{byte:02x}", [byte])


async def test_scored_tokens_are_shown_as_completions_show_them(client: httpx.AsyncClient) -> None:
    """Parts of a character were replacement characters, with nothing beside them that says which."""
    answer = await client.post("/score", json={"prompt": "a", "continuations": ["😀 b"]})
    (score,) = answer.json()["scores"]
    assert score["tokens"][:4] == PARTS
    local = await LocalClient(client.core).score(["😀 b"], prompt="a")  # type: ignore[attr-defined]
    assert list(local.scores[0].tokens) == score["tokens"]


async def test_parts_of_a_character_begin_where_it_does(client: httpx.AsyncClient) -> None:
    body = await complete(client, prompt="😀😀 hi", echo=True, max_tokens=0, logprobs=2)
    logprobs = body["choices"][0]["logprobs"]
    start = logprobs["tokens"].index(PARTS[0])  # after a start token, if there is one
    assert logprobs["tokens"][start : start + 8] == PARTS * 2
    assert logprobs["text_offset"][: start + 9] == [0] * (start + 4) + [1] * 4 + [2]
    assert logprobs["text_offset"][-1] < len("😀😀 hi")


@pytest.mark.parametrize("stream", [False, True])
async def test_offsets_are_right_after_control_tokens(client: httpx.AsyncClient, stream: bool) -> None:
    """A prompt that is shown as it was written has their texts, which were not counted."""
    prompt = "A b<|endoftext|>c😀 d<|endoftext|><|endoftext|>e"
    fields: dict[str, Any] = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 5, "ignore_eos": True}
    if stream:
        chunks = [chunk["choices"][0] for chunk in await streamed(client, "/v1/completions", **fields)]
        logprobs = {
            name: [x for chunk in chunks for x in chunk["logprobs"][name]] for name in ("tokens", "text_offset")
        }
        text = "".join(chunk["text"] for chunk in chunks)
    else:
        ((logprobs, text),) = [
            (each["logprobs"], each["text"]) for each in (await complete(client, **fields))["choices"]
        ]
    assert text.startswith(prompt)
    assert logprobs["tokens"].count("<|endoftext|>") >= 3
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith("bytes:") or text[offset:].startswith(token)


def test_control_tokens_that_are_not_shown_take_no_characters() -> None:
    tokenizer = tiny_tokenizer()
    (a,), (b,) = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in "ab")
    ids = [0, a, 0, 0, b, 0, a]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "aba"
    assert Words(tokenizer).offsets().of(ids) == [0, 0, 1, 1, 1, 2, 2]
    assert Words(tokenizer).offsets(written="a<|endoftext|>b").of([0, a, 0, b]) == [0, 0, 1, 14]


def test_spaces_that_a_control_token_takes_are_counted() -> None:
    copied = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    copied.add_special_tokens([AddedToken("<end>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=copied)
    written = "a  <end>\n b<end>a"
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert len(ids) == 5
    assert Words(tokenizer).offsets(written=written).of(ids) == [0, 3, 10, 11, 16]


async def test_every_token_has_its_own_entry(client: httpx.AsyncClient) -> None:
    body = await complete(client, prompt="A 😀😀 é", echo=True, max_tokens=2, logprobs=20)
    logprobs = body["choices"][0]["logprobs"]
    entries = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    for token, own, top in list(entries)[1:]:
        assert top[token] == own
        assert "\ufffd" not in top
        assert len(top) in (20, 21)


@pytest.mark.parametrize("echo", [False, True])
async def test_a_stream_s_offsets_are_those_of_the_whole(client: httpx.AsyncClient, echo: bool) -> None:
    """With a prompt that ends inside a character, which the answer goes on with; and text held for a stop string."""
    first, *rest = byte_ids(client)
    fields: dict[str, Any] = {"prompt": [5, first], "logprobs": 0, "echo": echo, "stop": ["zzzz"], "max_tokens": 20}
    fields |= {"logit_bias": {str(token_id): 100 for token_id in (*rest, 5)}, "temperature": 1, "seed": 3}
    (whole,) = (await complete(client, **fields))["choices"]
    chunks = await streamed(client, "/v1/completions", **fields)
    offsets = [offset for chunk in chunks for offset in chunk["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == whole["logprobs"]["text_offset"] == sorted(offsets)
    for token, offset in zip(whole["logprobs"]["tokens"], offsets, strict=True):
        assert token.startswith("bytes:") or whole["text"][offset:].startswith(token)


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: spaces in pieces, the first of a text dropped, and a token for each byte of the emoji."""
    pieces = ["<unk>", "▁", "a", "▁a", *(f"<0x{byte:02X}>" for byte in EMOJI)]
    tokenizer = Tokenizer(
        BPE({piece: place for place, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_bytes_and_spaces_of_sentencepiece_are_told() -> None:
    tokenizer = sentencepiece()
    words: Any = Words(tokenizer)
    assert [words.raw(token_id) for token_id in range(1, 8)] == [b" ", b"a", b" a", *(bytes([byte]) for byte in EMOJI)]
    assert [words.text(token_id) for token_id in range(3, 8)] == [" a", *PARTS]
    assert words.text(99) == ""  # an output beyond the tokenizer's vocabulary
    ids = [3, 3, 4, 5, 6, 7, 3, 2]
    assert tokenizer.decode(ids) == "a a😀 aa"
    assert words.offsets().of(ids) == [0, 1, 3, 3, 3, 3, 4, 6]


def test_a_tokenizer_that_tells_no_bytes_keeps_its_text() -> None:
    silent = SimpleNamespace(decode=lambda ids: "\ufffd", convert_ids_to_tokens=lambda token_id: "??")
    words = Words(silent)
    assert (words.raw(0), words.text(0)) == ("\ufffd".encode(), "\ufffd")


async def test_a_replacement_that_was_written_is_no_part(client: httpx.AsyncClient) -> None:
    body = await chat(client, messages=[*ASK, {"role": "user", "content": "\ufffd"}], logprobs=True, max_tokens=1)
    assert body["choices"][0]["logprobs"]["content"]
    echoed = await complete(client, prompt="\ufffd", echo=True, max_tokens=0, logprobs=0)
    shown = [token for token in echoed["choices"][0]["logprobs"]["tokens"] if token.startswith("bytes:")]
    assert "".join(shown) == "bytes:\\xefbytes:\\xbfbytes:\\xbd"
