"""What one model is served with."""

from dataclasses import dataclass

from server.core.asking import Asker
from server.core.documents.compression import Compressor
from server.core.documents.intake import Intake
from server.core.documents.portable import Portable
from server.core.documents.summaries import AllSummaries
from server.core.door import Door
from server.core.generating import Generator
from server.core.prompts.expansion import Expander
from server.core.prompts.prepared import Preparer
from server.core.prompts.prompting import Prompter
from server.core.prompts.window import Window
from server.core.reranking import Reranker
from server.core.responses.opening import Opener
from server.core.responses.responding import Responder
from server.core.scoring import Scorer
from server.core.searching import Searcher
from server.core.served_model import ServedModel
from server.engine.protocol import Decoder, Encoder


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of one model; `encoder` and `decoder` may be one engine."""

    model: ServedModel
    encoder: Encoder
    decoder: Decoder
    summaries: AllSummaries
    compressor: Compressor
    intake: Intake
    portable: Portable
    prompter: Prompter
    window: Window
    expander: Expander
    preparer: Preparer
    opener: Opener
    responder: Responder
    generator: Generator
    scorer: Scorer
    reranker: Reranker
    searcher: Searcher
    asker: Asker
    door: Door
