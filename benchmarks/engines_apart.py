"""How far apart the two engines compute: vectors, greedy tokens and scores of one document on the built-in and on vLLM.

make test-vllm                                                  # makes artifacts/vllm, an environment with vLLM
artifacts/vllm/bin/python -m benchmarks.engines_apart float32
artifacts/vllm/bin/python -m benchmarks.engines_apart bfloat16 --model paper
"""

import argparse
import asyncio
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.compressors import SegmentSummary

DOCUMENT = Path(__file__).parents[1] / "examples" / "chapter.txt"
NUM_SEGMENTS, NEW_TOKENS = 6, 24
QUESTION, CONTINUATIONS = " The keeper", (" wrote one line a day.", " slept.")


@dataclass(frozen=True)
class Computed:
    """What one engine makes of the document and of a question on it."""

    summaries: "list[SegmentSummary]"
    token_ids: list[int]
    scores: list[float]


async def compute(engine: str, model: str, dtype: str) -> Computed:
    # not at the top: vLLM's processes import this file again, and fail where it brings all of torch's companions
    import torch

    from server.core.build import open_core
    from server.engine.protocol import Prompt, SamplingParams
    from server.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            engine=engine, model=model, dtype=dtype, store=f"sqlite:{folder}/summaries.sqlite3", max_running_sequences=8
        )
        async with open_core(settings) as core:
            services = core.models.default
            served = services.model
            segments = served.segments(served.tokenise(DOCUMENT.read_text(), is_start=True))[:NUM_SEGMENTS]
            keys = [f"segment-{place}" for place in range(len(segments))]
            async with aclosing(services.encoder.compress(segments, keys=keys)) as made:
                summaries = [summary async for summary in made]
            soft_prompt = torch.cat([summary.vectors for summary in summaries])
            prompt = Prompt(soft_prompt, tuple(served.tokenise(QUESTION, is_start=False)))
            params = SamplingParams(NEW_TOKENS, temperature=0, ignore_eos=True)
            async with aclosing(services.decoder.generate(prompt, params)) as events:
                token_ids = [event.token_id async for event in events]
            continuations = [served.tokenise(each, is_start=False) for each in CONTINUATIONS]
            scored = await services.decoder.score(prompt, continuations)
            return Computed(summaries, token_ids, [each.total for each in scored])


def compared(one: Computed, other: Computed) -> str:
    """Of each segment the shared anchors, and the distance of vectors at those over the first ones' length."""
    shared, distances = [], []
    for own, theirs in zip(one.summaries, other.summaries, strict=True):
        pairs = list(zip(range(len(own)), range(len(theirs)), strict=False))
        if own.anchors is not None and theirs.anchors is not None:
            places = {anchor: place for place, anchor in enumerate(theirs.anchors.tolist())}
            pairs = [(place, places[each]) for place, each in enumerate(own.anchors.tolist()) if each in places]
        shared.append(f"{len(pairs)} of {len(own)}")
        first = own.vectors[[place for place, _ in pairs]].float()
        second = theirs.vectors[[place for _, place in pairs]].float()
        distances.append(f"{float((first - second).norm() / first.norm()):.1e}")
    tokens = zip(one.token_ids, other.token_ids, strict=True)
    same = next((place for place, (own, theirs) in enumerate(tokens) if own != theirs), NEW_TOKENS)
    scores = ", ".join(f"{a:.3f} and {b:.3f}" for a, b in zip(one.scores, other.scores, strict=True))
    return (
        f"vectors at the same places: {', '.join(shared)}\ndistance there, of their length: {', '.join(distances)}\n"
        f"greedy tokens that are the same from the first on: {same} of {NEW_TOKENS}\nscores: {scores}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--model", default="default", help="what is served")
    asked = parser.parse_args()
    one, other = (asyncio.run(compute(engine, asked.model, asked.dtype)) for engine in ("torch", "vllm"))
    print(compared(one, other))


if __name__ == "__main__":
    main()
