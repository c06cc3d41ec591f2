"""The floors of `model`, top to bottom; a file imports from floors below its own only."""

MODEL = [
    {"model"},
    {"model.autocompressor"},
    {"model.generation", "model.checkpoint"},
    {"model.segment_model"},
    {"model.compressors"},
    {"model.compressors.anchored", "model.compressors.summary_tokens"},
    {"model.compressors.anchors", "model.compressors.writer"},
    {"model.adapter", "model.base", "model.positions", "model.segments", "model.output"},
    {"model.bases.known"},
    {"model.bases.gguf_llama", "model.bases.reference", "model.bases.wheel", "model.bases.data_directory"},
    {"model.bases.gguf_tokenizer", "model.fingerprint"},
    {"model.checkpoint_directory", "model.config", "model.atomic", "model.bm25", "model.precision"},
]
