"""What only a CUDA device can show: flash-attn's kernels = torch's, the engine there = the reference path."""

import pytest
import torch

from model import AutoCompressor
from server.engine.torch import flash
from server.engine.torch.attention import Kernels, Options, Run, SdpaKernels
from server.engine.torch.flash import FlashKernels
from tests.engine.test_engine import document, generated, prompts, running, token_ids
from tests.tiny import tiny_compressor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
needs_flash = pytest.mark.skipif(not flash.is_available(), reason="flash-attn is not installed")
OPTIONS = [Options(None, None), Options(0.3, None), Options(None, 6)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


@needs_flash
@pytest.mark.parametrize("options", OPTIONS)
def test_flash_prefill_equals_torch(options: Options) -> None:
    runs = [
        Run(random(length, 4, 64), random(length, 2, 64), random(length, 2, 64), known)
        for length, known in (
            (7, None),
            (1, (random(2, 9, 64), random(2, 9, 64))),
            (22, None),
            (5, (random(2, 3, 64),) * 2),
        )
    ]
    for one, other in zip(*(kernels.prefill(runs, options) for kernels in both()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.03)


@needs_flash
@pytest.mark.parametrize("options", OPTIONS)
def test_flash_decode_equals_torch(options: Options) -> None:
    query, keys, values = random(3, 4, 64), random(3, 2, 40, 64), random(3, 2, 40, 64)
    lengths = torch.tensor([3, 40, 11], device="cuda")
    one, other = (kernels.decode(query, keys, values, lengths, options) for kernels in both())
    torch.testing.assert_close(one, other, rtol=0, atol=0.03)


def both() -> tuple[Kernels, Kernels]:
    return SdpaKernels(), FlashKernels()


@pytest.mark.parametrize("family", ["llama", "opt", "qwen3"])
async def test_the_engine_on_cuda_equals_the_reference_on_the_cpu(family: str) -> None:
    reference = tiny_compressor(family)
    prompt = prompts()[1]
    assert prompt.soft_prompt is not None
    expected = reference.generate(
        torch.tensor([prompt.token_ids]), soft_prompt=prompt.soft_prompt[None], max_new_tokens=12, eos_token_id=-1
    )[0, len(prompt.token_ids) :].tolist()
    vectors = reference.compress(torch.tensor([document(20)]))[0]
    served: AutoCompressor = tiny_compressor(family).to("cuda")
    async with running(served) as engine:
        assert token_ids(await generated(engine, prompt)) == expected
        made = [part.vectors async for part in engine.compress([document(20)])]
    torch.testing.assert_close(made[0], vectors.detach(), rtol=0, atol=1e-3)
