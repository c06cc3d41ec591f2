"""E1, E2: generation from soft prompts, many at once and one alone."""

from collections.abc import Iterator

import torch

from benchmarks.measuring import Row, compared, take_turns
from benchmarks.subject import Subject, random_ids
from benchmarks.transformers_peer import Transformers
from benchmarks.vllm_peer import Vllm
from server.engine.protocol import Prompt

NUM_VECTORS, PROMPT_TOKENS, NEW_TOKENS = 150, 50, 64
TARGETS = {32: ("E1", 1.2), 8: ("E2", 1.0), 1: ("E2", 1.0)}


def run(subject: Subject, transformers: Transformers, vllm: Vllm | None, *, rounds: int) -> Iterator[Row]:
    for concurrency, (experiment, target) in TARGETS.items():
        vectors = [subject.random_vectors(NUM_VECTORS, seed) for seed in range(concurrency)]
        ids = [random_ids(PROMPT_TOKENS, seed) for seed in range(concurrency)]
        prompts = [Prompt(soft, tuple(own)) for soft, own in zip(vectors, ids, strict=True)]
        with torch.inference_mode():
            embeds = torch.stack(
                [
                    torch.cat([soft, subject.compressor.embed(torch.tensor(own))])
                    for soft, own in zip(vectors, ids, strict=True)
                ]
            ).clone()  # (B, T, D)
        texts = [random_ids(NUM_VECTORS + PROMPT_TOKENS, seed) for seed in range(concurrency)]
        made = concurrency * NEW_TOKENS
        name = f"{experiment}-{concurrency}"
        sides = {
            "ours": lambda prompts=prompts: subject.generate(prompts, NEW_TOKENS),
            "transformers generate": lambda embeds=embeds: transformers.generate(embeds, NEW_TOKENS),
            "transformers continuous batching": lambda texts=texts: transformers.generate_batch(texts, NEW_TOKENS),
        }
        if vllm is not None:
            vllm.prepare(name, list(embeds))
            sides["vLLM"] = lambda name=name, made=made: made / vllm.run(name, max_tokens=NEW_TOKENS, forget=True)
        measured = take_turns(sides, rounds)
        what = f"generate, {concurrency} at once: {NUM_VECTORS} vectors + {PROMPT_TOKENS} tokens, {NEW_TOKENS} new"
        for peer in list(measured)[1:]:
            both = {"ours": measured["ours"], peer: measured[peer]}
            yield compared(experiment, what, both, peer=peer, target=target, side_unit="tokens/s")
