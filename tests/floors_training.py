"""The floors of `training`, top to bottom, as `tests/test_layering.py` has those of `server`."""

TRAINING: list[set[str]] = [
    {"training.__main__"},
    {"training.commands.train", "training.commands.evaluate"},
    {"training.commands.overrides", "training.commands.shared"},
    # the bench
    {"training.bench.suites.catalogue"},
    {"training.bench.suites.budget", "training.bench.suites.depth", "training.bench.suites.hybrid"}
    | {"training.bench.suites.qa"},
    {"training.bench.suites.alternatives", "training.bench.suites.icl", "training.bench.suites.perplexity"}
    | {"training.bench.suites.qa_chat", "training.bench.suites.recall", "training.bench.suites.rerank"}
    | {"training.bench.suites.retrieval"},
    {"training.bench.rivals.costs"},
    {"training.bench.rivals.substitutes"},
    {"training.bench.rivals.kv_selection"},
    {"training.bench.tally"},
    {"training.bench.outcome", "training.bench.parts", "training.bench.prefix", "training.bench.questions"},
    {"training.bench.options", "training.bench.reader", "training.bench.drawing", "training.bench.planting"}
    | {"training.bench.tasks", "training.bench.figure"},
    # what a checkpoint is worth
    {"training.evaluation.checkpoints"},
    {"training.evaluation.scorer", "training.evaluation.tables"},
    {"training.evaluation.windows", "training.evaluation.markdown"},
    {"training.evaluation.results", "training.evaluation.intervals"},
    {"training.evaluation.scores"},
    # a run
    {"training.run.identity"},
    {"training.run.stages", "training.run.report", "training.run.surroundings"},
    {"training.planning.plan"},
    {"training.planning.memory"},
    {"training.planning.flops"},
    {"training.planning.passes", "training.planning.shapes", "training.planning.devices"},
    {"training.loop.trainer"},
    {"training.loop.feed", "training.loop.optimisation", "training.loop.processes", "training.loop.records"}
    | {"training.loop.snapshots", "training.loop.stopping"},
    {"training.objectives.distillation"},
    {"training.objectives.cross_entropy", "training.objectives.asking", "training.objectives.reciting"},
    {"training.objectives.objective", "training.objectives.layouts", "training.objectives.tails"}
    | {"training.objectives.padding", "training.objectives.segment_lengths"},
    # what it is made of
    {"training.data.batches", "training.data.domains"},
    {"training.data.documents"},
    {"training.data.sources", "training.data.tokenizer"},
    {"training.bases.adapters", "training.bases.loading", "training.bases.references"},
    {"training.recipes.catalogue"},
    {"training.recipes.from_scratch", "training.recipes.published", "training.recipes.smollm"}
    | {"training.recipes.refusals"},
    {"training.recipes.recipe"},
]
