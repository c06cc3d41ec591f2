"""What an engine keeps: its own copy of a checkpoint's weights and not the file, and not what its steps have freed."""

import asyncio
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
import torch

from model import AutoCompressor
from server.engine.protocol import SamplingParams
from server.engine.torch import build, loop, memory, runner
from server.engine.torch.devices import choose_kernels
from server.engine.torch.packed import PackedModel
from server.engine.torch.runner import Runner
from server.settings import Settings
from tests.engine.test_engine import generated, prompts, running
from tests.tiny import tiny_anchored, tiny_compressor


def mapped(directory: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(directory) in line]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux'")
@pytest.mark.parametrize("kind", ["llama", "opt", "anchored"])
def test_the_checkpoint_leaves_memory(tmp_path: Path, kind: str) -> None:
    made = tiny_anchored() if kind == "anchored" else tiny_compressor(kind)
    made.save_pretrained(tmp_path)
    model = AutoCompressor.from_pretrained(tmp_path, dtype=torch.float32)
    assert mapped(tmp_path)
    Runner(PackedModel(model, choose_kernels("auto", model.device, model.dtype), num_rows=2, max_tokens=64))
    assert not mapped(tmp_path)


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each time that what steps have freed was given back."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_RESTS", 0.05)
    taken: list[None] = []
    monkeypatch.setattr(runner, "give_back_freed", lambda: taken.append(None))
    return taken


async def test_what_steps_freed_is_given_back_when_nobody_waits(rests: list[None]) -> None:
    """Once, and not again before another step: memory grew with requests of ever other lengths."""
    async with running(tiny_compressor()) as engine:
        for _ in range(2):
            before = len(rests)
            await asyncio.gather(*(generated(engine, prompt) for prompt in prompts()))
            async with asyncio.timeout(10):
                while len(rests) == before:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            after = len(rests)
            await asyncio.sleep(0.2)
            assert len(rests) == after


async def test_and_while_a_generation_runs(rests: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not, and a server that always had work grew."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_RESTS", 0.01)
    params = SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
    async with running(tiny_compressor()) as engine, aclosing(engine.generate(prompts()[0], params)) as events:
        async for event in events:
            if event.finish_reason is None:
                taken = len(rests)
    assert taken >= 2


def test_what_is_free_is_less_in_a_container_that_has_a_limit(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert memory._free_of_container(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory._free_of_container(tmp_path) == []
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory._free_of_container(tmp_path) == [4000]
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("3000")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("4000")
    assert memory._free_of_container(tmp_path) == [4000, 0]
    assert 2**20 < memory.free_bytes(cpu) < 2**50


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"working_bytes": 1}, (64, 64)),  # a row each
        ({"working_bytes": 4000 * 256}, (3000, 1000)),
        ({"prefix_cache_bytes": 0}, (3000, 1000)),  # a quarter of what is free and not promised to the pool
        ({"prefix_cache_bytes": 8000 * 256}, (1500, 500)),
    ],
)
def test_what_is_being_read_has_a_part_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], expected: tuple[int, int]
) -> None:
    model = tiny_compressor()
    packed = PackedModel(model, choose_kernels("auto", model.device, model.dtype), num_rows=2, max_tokens=64)
    position_bytes = packed.pool.position_bytes
    assert position_bytes == 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, bytes
    monkeypatch.setattr(build, "free_bytes", lambda _: 16_000 * position_bytes + packed.pool.nbytes)
    num_bytes = build.working_bytes([packed], Settings(**settings))  # type: ignore[arg-type]
    assert build.working_positions(packed, num_bytes) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_what_a_step_freed_is_there_for_the_next_one() -> None:
    """In processes of their own, as it is for good; as pages that had to be had anew."""
    script = """
import ctypes, resource, sys
from server.engine.torch.memory import keep_freed
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes, c.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 40 * 2**20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(size)
    c.memset(block, 0, size)
    c.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if sys.argv[1] == "kept":
    keep_freed()
print(*(faults() for _ in range(4)))
"""

    def faults(way: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    if min(faults("given back")) < 1000:
        pytest.skip("this system keeps the pages, or has large ones")
    assert max(faults("kept")[1:]) < 100
