"""A question answered from passages of a corpus: their summaries before it, fused, and some of their text."""

from collections.abc import Callable, Sequence
from functools import partial

from server.core.generating import Generation, Generator
from server.core.prompts.chat_template import Said, rendered_in_thread
from server.core.prompts.expansion import Expander
from server.core.prompts.plan import Call
from server.core.prompts.prompting import Prompter
from server.core.receipts import Stopwatch
from server.core.searching import Hit
from server.core.served_model import ServedModel
from server.core.tenant import Tenant
from server.engine.protocol import SamplingParams
from server.errors import InvalidRequest


class Asker:
    """Begins answers."""

    def __init__(self, model: ServedModel, prompter: Prompter, expander: Expander, generator: Generator) -> None:
        self._model = model
        self._prompter = prompter
        self._expander = expander
        self._generator = generator

    async def begin(
        self,
        query: str,
        hits: Sequence[Hit],
        params: Callable[[int], SamplingParams],
        *,
        tenant: Tenant,
        max_tokens: int | None,
        max_vectors: int | None = None,
        num_expanded: int = 0,
    ) -> Generation:
        """An answer whose prompt is ready: the hits' vectors, the best nearest to the question, and the question.

        Of a model with a chat template that is what a user says, else the words as they are.

        Args:
            num_expanded: how many segments of the hits are read as text, those that the question speaks of most.

        Raises:
            InvalidRequest: there are no hits. And as `Generator.begin`.
        """
        if not hits:
            raise InvalidRequest(
                "no passage of the corpus was found: by 'bm25' those alone are that share a word with the query",
                param="query",
            )
        watch = Stopwatch()
        token_ids = await self._question(query)
        summaries = tuple(hit.summary for hit in reversed(hits))
        call = Call(tenant, "limit", "query")
        plan = self._prompter.plan_tokens(call, summaries, token_ids, max_vectors=max_vectors)
        plan = await self._expander.expanded(plan, num_expanded, query)
        return await self._generator.begin_planned(plan, params, watch, max_tokens=max_tokens)

    async def _question(self, query: str) -> tuple[int, ...]:
        if self._model.has_chat_template:
            said = [Said("user", query)]
            return (await rendered_in_thread(self._model, said, param="query", most=self._prompter.window)).token_ids
        work = partial(self._model.tokenise_within, query, is_start=False, param="query")
        return tuple(await self._model.long_texts.in_thread(len(query), work))
