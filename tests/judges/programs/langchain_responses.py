"""LangChain's ChatOpenAI by the Responses API: whole, streamed, chained, and compacted by the server."""

from typing import Any

from checks import Asked, require, tell
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

MOST_TURNS = 30
THRESHOLD = 1000  # tokens, the least that OpenAI takes


def chat_of(asked: Asked, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=asked.model, base_url=asked.url, api_key="none", use_responses_api=True, max_retries=0, **options
    )


def invoke(asked: Asked) -> None:
    reply = chat_of(asked).invoke([SystemMessage("Be short."), HumanMessage("Who counts ships?")])
    require(reply.text, "there is no text")
    require(reply.usage_metadata and reply.usage_metadata["input_tokens"] > 0, f"usage is {reply.usage_metadata}")
    require(reply.response_metadata["status"] == "completed", f"{reply.response_metadata}")
    require(reply.id and reply.id.startswith("resp"), f"the id is {reply.id}")


def stream(asked: Asked) -> None:
    chunks = list(chat_of(asked).stream("Count from 1 to 5."))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    require(len(chunks) > 2 and whole.text, f"{len(chunks)} chunks with {whole.text!r}")
    require(whole.usage_metadata, "there is no usage")


def history(asked: Asked) -> None:
    chat = chat_of(asked)
    said: list[Any] = [HumanMessage("My name is Alice.")]
    for question in ("What is my name?", "And again?"):
        said += [chat.invoke(said), HumanMessage(question)]
    require(chat.invoke(said).text, "there is no text")


def previous_response_id(asked: Asked) -> None:
    chat = chat_of(asked, use_previous_response_id=True)
    first = chat.invoke("My name is Alice.")
    second = chat.invoke([HumanMessage("My name is Alice."), first, HumanMessage("What is my name?")])
    used = second.usage_metadata["input_tokens"]
    require(used > first.usage_metadata["input_tokens"], f"{used} tokens were read")


def context_management(asked: Asked) -> None:
    """The server compacts, the item comes back among the content, and the chat goes on from it."""
    chat = chat_of(asked, context_management=[{"type": "compaction", "compact_threshold": THRESHOLD}])
    said: list[Any] = []
    for number in range(MOST_TURNS):
        said.append(
            HumanMessage(f"Turn {number}. The keeper wrote one line a day: wind from the north, ships, no fog.")
        )
        reply = chat.invoke(said)
        said.append(reply)
        if any(block["type"] == "compaction" for block in reply.content if isinstance(block, dict)):
            break
    else:
        raise AssertionError(f"nothing was compacted in {MOST_TURNS} turns; {reply.usage_metadata}")
    require(chat.invoke([*said, HumanMessage("And then?")]).text, "it did not go on")


if __name__ == "__main__":
    tell((invoke, stream, history, previous_response_id, context_management))
