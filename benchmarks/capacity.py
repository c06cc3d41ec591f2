"""What a corpus and a load take, on paper: GPUs, memory of Redis and network, from the costs of one unit.

    python -m benchmarks.capacity
    python -m benchmarks.capacity --passages 1000000 --rate 50 --stored int8

Counts a product as 2 operations a parameter and position, and a decoded token as one pass over the weights and the keys
and values of all rows of its step. What is measured and what is assumed is printed with the table; every assumption is
a flag. Hardware is by its maker's figures of dense bfloat16 and of memory.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

BF16, INT8, SCALE = 2, 1, 4  # bytes of a number, and of a vector's scale
HEADROOM = 1.25  # of Redis' memory, as docs/operations.md reckons
MEASURED = "lookups of stored documents a second and process: 569 (docs/reliability.md), 16 clients, two cores"


@dataclass(frozen=True)
class Base:
    """Of a decoder the shapes that cost; `params` of all weights."""

    name: str
    params: float
    width: int
    layers: int
    kv_width: int

    @property
    def weight_bytes(self) -> float:
        return self.params * BF16

    @property
    def position_bytes(self) -> int:
        """Keys and values of one position."""
        return 2 * self.layers * self.kv_width * BF16


@dataclass(frozen=True)
class Device:
    """FLOP/s of dense bfloat16, bytes of memory and of them a second."""

    name: str
    flops: float
    memory_bytes: float
    bytes_a_second: float


@dataclass(frozen=True)
class Load:
    """A corpus, and questions on it.

    Attributes:
        vectors_a_token: of a passage. candidates: passages whose summaries a question is answered from.
        stored_bytes: of one number of a vector. hit_rate: of vectors, those in a server's memory.
        compute_share, bandwidth_share: of the device's figures that are reached.
        rows: that decode together on one replica, at most.
        lookups: of stored documents that a front process answers a second.
    """

    passages: int = 20_000_000
    passage_tokens: int = 512
    vectors_a_token: float = 50 / 1536
    rate: float = 1000.0
    candidates: int = 10
    question_tokens: int = 50
    answer_tokens: int = 64
    stored_bytes: int = BF16
    hit_rate: float = 0.0
    compute_share: float = 0.5
    bandwidth_share: float = 0.6
    rows: int = 128
    lookups: float = 569.0

    @property
    def passage_vectors(self) -> int:
        return math.ceil(self.passage_tokens * self.vectors_a_token)


@dataclass(frozen=True)
class Need:
    """What a load takes with one base.

    Attributes:
        devices_a_replica: that hold weights and rows. replicas: that answer the questions.
        text_replicas: that would, were the passages read as text.
        compress_hours: of one device, for the corpus.
        redis_bytes: for the corpus. network_bits: a second, out of Redis. processes: of HTTP.
    """

    devices_a_replica: int
    replicas: int
    text_replicas: int
    compress_hours: float
    redis_bytes: float
    network_bits: float
    processes: int


LLAMA_7B = Base("Llama-2-7B", 6.74e9, 4096, 32, 4096)
LLAMA_70B = Base("Llama-2-70B", 68.98e9, 8192, 80, 1024)
H100 = Device("H100 SXM", 989e12, 80e9, 3.35e12)


def need(base: Base, device: Device, load: Load) -> Need:
    """The arithmetic.

    Raises:
        ValueError: not even one row beside the weights fits a thousand devices.
    """
    vectors = load.candidates * load.passage_vectors
    text = load.candidates * load.passage_tokens
    devices = _devices(base, device, load, vectors)
    text_devices = _devices(base, device, load, text)
    vector_bytes = base.width * load.stored_bytes + (SCALE if load.stored_bytes == INT8 else 0)
    return Need(
        devices_a_replica=devices,
        replicas=math.ceil(load.rate * _seconds(base, device, load, vectors, devices)),
        text_replicas=math.ceil(load.rate * _seconds(base, device, load, text, text_devices) * text_devices / devices),
        compress_hours=load.passages * load.passage_tokens * _read_seconds(base, device, load) / 3600,
        redis_bytes=load.passages * load.passage_vectors * vector_bytes * HEADROOM,
        network_bits=load.rate * (1 - load.hit_rate) * vectors * vector_bytes * 8,
        processes=math.ceil(load.rate / load.lookups),
    )


def _read_seconds(base: Base, device: Device, load: Load) -> float:
    """Of one device, for one position that is read."""
    return 2 * base.params / (device.flops * load.compute_share)


def _devices(base: Base, device: Device, load: Load, read: int) -> int:
    """As few, of a power of two, as hold the weights and the rows, and leave a tenth for what is in between."""
    row = (read + load.question_tokens + load.answer_tokens) * base.position_bytes
    for power in range(11):
        if base.weight_bytes + load.rows * row <= 0.9 * device.memory_bytes * 2**power:
            return 2**power
    raise ValueError(f"{load.rows} rows of {row:,} bytes beside {base.name} fit no number of {device.name}")


def _seconds(base: Base, device: Device, load: Load, read: int, devices: int) -> float:
    """Of a replica of so many devices, that one question takes it: reading, and its share of the steps' time."""
    reading = (read + load.question_tokens) * _read_seconds(base, device, load) / devices
    positions = read + load.question_tokens + load.answer_tokens / 2  # at the middle of the answer
    moved = base.weight_bytes + load.rows * positions * base.position_bytes
    step = moved / (device.bytes_a_second * load.bandwidth_share * devices)
    return reading + load.answer_tokens * step / load.rows


def as_table(needs: list[tuple[Base, Need]], device: Device) -> Iterator[str]:
    yield "| | " + " | ".join(base.name for base, _ in needs) + " |"
    yield "|---|" + "---:|" * len(needs)
    rows = {
        f"{device.name} a replica": [f"{each.devices_a_replica}" for _, each in needs],
        "replicas that answer": [f"{each.replicas}" for _, each in needs],
        f"{device.name} that answer, in all": [f"{each.replicas * each.devices_a_replica}" for _, each in needs],
        "the same, passages read as text": [f"{each.text_replicas * each.devices_a_replica:,}" for _, each in needs],
        f"{device.name} hours to compress the corpus": [f"{each.compress_hours:,.0f}" for _, each in needs],
        "Redis, memory": [f"{each.redis_bytes / 1e12:.2f} TB" for _, each in needs],
        "out of Redis": [f"{each.network_bits / 1e9:.1f} Gbit/s" for _, each in needs],
        "processes of HTTP": [f"{each.processes}" for _, each in needs],
    }
    yield from (f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())


def main() -> None:
    default = Load()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=default.passages, help="of the corpus")
    parser.add_argument("--passage-tokens", type=int, default=default.passage_tokens, help="of each")
    parser.add_argument("--rate", type=float, default=default.rate, help="questions a second")
    parser.add_argument(
        "--candidates", type=int, default=default.candidates, help="passages that each is answered from"
    )
    parser.add_argument("--answer-tokens", type=int, default=default.answer_tokens, help="of each answer")
    parser.add_argument("--stored", choices=("bf16", "int8"), default="bf16", help="vectors as they are stored")
    parser.add_argument(
        "--hit-rate", type=float, default=default.hit_rate, help="of vectors in the servers' own memory"
    )
    parser.add_argument("--compute-share", type=float, default=default.compute_share, help="of the FLOP/s, reached")
    parser.add_argument(
        "--bandwidth-share", type=float, default=default.bandwidth_share, help="of the memory's, reached"
    )
    asked = vars(parser.parse_args())
    stored = {"bf16": BF16, "int8": INT8}[asked.pop("stored")]
    load = Load(**asked, stored_bytes=stored)
    print(
        f"{load.passages:,} passages of {load.passage_tokens} tokens, {load.passage_vectors} vectors each; "
        f"{load.rate:g} questions a second, each on {load.candidates} of them, {load.answer_tokens} tokens answered\n"
    )
    print("\n".join(as_table([(base, need(base, H100, load)) for base in (LLAMA_7B, LLAMA_70B)], H100)))
    print(
        f"\nmeasured: {MEASURED}\nassumed: {load.compute_share:.0%} of {H100.flops / 1e12:.0f} TFLOP/s, "
        f"{load.bandwidth_share:.0%} of {H100.bytes_a_second / 1e12:.2f} TB/s, {load.rows} rows that decode together, "
        f"{load.hit_rate:.0%} of vectors in the servers' memory"
    )


if __name__ == "__main__":
    main()
