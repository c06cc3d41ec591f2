"""The suites by name, and how one is run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from training.bench.options import Options
from training.bench.outcome import Outcome
from training.bench.reader import Reader
from training.bench.suites import alternatives, budget, depth, hybrid, icl, perplexity, qa, recall, rerank, retrieval


@dataclass(frozen=True)
class Suite:
    """What measures, and how many samples it takes where none are asked for.

    These take at most 15 minutes on two cores with a base that reads 1,500 tokens a second.

    Attributes:
        reads: of the flags that only some suites read, those that it does.
    """

    run: Callable[[Reader, Options], Outcome]
    samples: int
    reads: frozenset[str] = frozenset()


SUITES = {
    "perplexity": Suite(perplexity.run, 8, reads=frozenset({"beside"})),
    "depth": Suite(depth.run, 4),
    "budget": Suite(budget.run, 16),
    "hybrid": Suite(hybrid.run, 8),
    "recall": Suite(recall.run, 7),
    "qa": Suite(qa.run, 60, reads=frozenset({"questions"})),
    "retrieval": Suite(retrieval.run, 7),
    "rerank": Suite(rerank.run, 60, reads=frozenset({"questions"})),
    "icl": Suite(icl.run, 100, reads=frozenset({"tasks"})),
    "alternatives": Suite(alternatives.run, 8, reads=frozenset({"beside"})),
}


def run_suite(options: Options) -> Path:
    """Measure the checkpoint and write the tables; the path of the Markdown file.

    Raises:
        ValueError: an unknown suite, a checkpoint without tokenizer or positions, too few documents, a flag that the
            suite does not read.
    """
    if options.suite not in SUITES:
        raise ValueError(f"there is no suite {options.suite!r}; there are: {', '.join(SUITES)}")
    suite = SUITES[options.suite]
    if options.samples is None:
        options = replace(options, samples=suite.samples)
    if options.number < 1:
        raise ValueError(f"samples is {options.number}; it must be 1 or more")
    for flag in ("beside", "questions", "tasks"):
        if getattr(options, flag) and flag not in suite.reads:
            raise ValueError(f"--{flag}: the suite {options.suite} does not read it")
    reader = Reader.load(options.checkpoint, options.device)
    return suite.run(reader, options).write(options)
