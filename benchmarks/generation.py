"""E1, E2: generation from soft prompts, many at once and one alone."""

from collections.abc import Iterator

import torch

from benchmarks.measuring import Row, compared, take_turns
from benchmarks.subject import Subject, random_ids
from benchmarks.transformers_peer import Transformers
from benchmarks.vllm_peer import ON_VLLM, ON_VLLM_TARGET, Vllm
from server.engine.protocol import Prompt

NUM_VECTORS, PROMPT_TOKENS, NEW_TOKENS = 150, 50, 64
TARGETS = {32: ("E1", 1.2), 8: ("E2", 1.0), 1: ("E2", 1.0)}


def run(
    subject: Subject, transformers: Transformers, vllm: Vllm | None, on_vllm: Vllm | None, *, rounds: int
) -> Iterator[Row]:
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
        peers = ((vllm, "vLLM", list(embeds)), (on_vllm, ON_VLLM, list(zip(vectors, ids, strict=True))))
        for peer, side, asked in peers:
            if peer is not None:
                peer.prepare(name, asked)
                sides[side] = lambda peer=peer, name=name, made=made: made / peer.run(name, max_tokens=NEW_TOKENS)
        measured = take_turns(sides, rounds)
        what = f"generate, {concurrency} at once: {NUM_VECTORS} vectors + {PROMPT_TOKENS} tokens, {NEW_TOKENS} new"
        for side in list(measured)[1:]:
            yield compared(experiment, what, measured, peer=side, target=target, side_unit="tokens/s")
        if ON_VLLM in measured:
            yield compared(
                experiment, what, measured, side=ON_VLLM, peer="vLLM", target=ON_VLLM_TARGET, side_unit="tokens/s"
            )
