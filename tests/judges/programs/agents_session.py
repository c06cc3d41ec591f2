"""The Agents SDK with its own compaction session: fifty turns, compacted by this server on the way."""

import asyncio
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesCompactionSession,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    set_tracing_disabled,
)
from checks import Asked, require, tell
from openai import AsyncOpenAI

TURNS, FEW_TURNS = 50, 15
TURNS_PER_COMPACTION = 10  # the session compacts where ten items are neither the user's nor a compaction


def fifty_turns(asked: Asked) -> None:
    asyncio.run(talked(asked, TURNS, store=None))


def without_stored_responses(asked: Asked) -> None:
    """The session then compacts its own items."""
    asyncio.run(talked(asked, FEW_TURNS, store=False))


def streamed_turns(asked: Asked) -> None:
    asyncio.run(talked(asked, FEW_TURNS, store=None, is_streamed=True))


async def talked(asked: Asked, num_turns: int, *, store: bool | None, is_streamed: bool = False) -> None:
    set_tracing_disabled(True)
    async with AsyncOpenAI(base_url=asked.url, api_key="none", max_retries=0, timeout=60) as client:
        model = OpenAIResponsesModel(model=asked.model, openai_client=client)
        settings = ModelSettings(store=store)
        agent = Agent(name="Keeper", instructions="Be short.", model=model, model_settings=settings)
        kept = SQLiteSession("talk")
        session = OpenAIResponsesCompactionSession("talk", kept, client=client, model=asked.model)
        compactions: list[str] = []
        for number in range(num_turns):
            said = f"Turn {number}: {number} ships."
            if is_streamed:
                run = Runner.run_streamed(agent, said, session=session)
                async for _ in run.stream_events():
                    pass
                answer = run.final_output
            else:
                answer = (await Runner.run(agent, said, session=session)).final_output
            require(answer, f"turn {number} has no answer")
            items: list[Any] = await session.get_items()
            found = [item["encrypted_content"] for item in items if item.get("type") == "compaction"]
            require(len(found) <= 1, f"there are {len(found)} compactions after turn {number}")
            compactions += [each for each in found if each not in compactions]
        wanted = num_turns // TURNS_PER_COMPACTION
        require(len(compactions) >= wanted, f"it was compacted {len(compactions)} times, not {wanted}")
        users = [item for item in items if item.get("role") == "user"]
        require(len(users) == num_turns, f"{len(users)} of {num_turns} messages of the user are left")
        others = [item for item in items if item.get("role") == "assistant"]
        require(len(others) <= TURNS_PER_COMPACTION, f"{len(others)} answers were not compacted")


if __name__ == "__main__":
    tell((fifty_turns, without_stored_responses, streamed_turns))
