"""One vLLM engine, in processes of its own, its errors as this server's."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from torch import Tensor
from vllm import PoolingParams, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server.errors import EngineFailed, InvalidRequest, NotReady

STOP_SECONDS = 2.0  # for its processes to end by themselves


class Instance:
    """Not open until `open`; calls belong to the event loop that it is opened on."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._engine: AsyncLLM | None = None
        self._is_stopping = False

    def open(self) -> None:
        """Start its processes and load the model, tens of seconds during which the event loop stands still.

        Raises:
            ValueError: vLLM refuses the model or an argument, or fails; its processes log the cause.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments))
        except (VLLMError, ValueError, TypeError, RuntimeError, AssertionError, OSError, KeyError) as error:
            raise ValueError(f"vLLM does not start: {error}") from error

    def close(self) -> None:
        """End its processes; whoever still waits gets `NotReady`. Not for the event loop's thread."""
        self._is_stopping = True
        if self._engine is not None:
            self._loop.call_soon_threadsafe(_answer_all, self._engine)
            self._engine.shutdown(timeout=STOP_SECONDS)
            self._engine = None  # at the interpreter's end its own clean-up would fail

    @property
    def is_running(self) -> bool:
        return self._engine is not None and not self._is_stopping and not self._engine.errored

    async def generate(
        self, prompt: Any, params: SamplingParams, *, adapter: LoRARequest | None = None
    ) -> AsyncGenerator[RequestOutput]:
        """What vLLM makes of a prompt, as it comes; closing it frees what it holds."""
        with self._translated() as engine:
            made = engine.generate(prompt, params, uuid.uuid4().hex, lora_request=adapter)
            async with aclosing(made) as outputs:
                async for output in outputs:
                    yield output

    async def states(self, prompt: Any, *, reads_cache: bool) -> Tensor:
        """Last hidden states (T, D) of a prompt in float32, on the CPU; of its last positions where `reads_cache`.

        Args:
            reads_cache: positions whose keys and values are known are not run, and have no row.
        """
        params = PoolingParams(
            task="token_embed",
            use_activation=False,  # which would scale rows to length 1
            skip_reading_prefix_cache=not reads_cache,
        )
        with self._translated() as engine:
            async for output in engine.encode(prompt, params, uuid.uuid4().hex):
                if output.error is not None:
                    raise EngineFailed(f"vLLM failed: {output.error.message}")
                rows: Tensor = output.outputs.data
        if not bool(rows.isfinite().all()):
            raise EngineFailed("the model's states are not finite")
        return rows.float()

    @contextmanager
    def _translated(self) -> Iterator[AsyncLLM]:
        if self._engine is None or not self.is_running:
            raise NotReady("the engine is not running")
        try:
            yield self._engine
        except EngineDeadError as error:
            if self._is_stopping:
                raise NotReady("the server is stopping") from error
            raise EngineFailed("the engine has failed; the server has to be restarted") from error
        except VLLMClientError as error:
            raise InvalidRequest(f"vLLM refuses this: {error}") from error
        except VLLMError as error:
            raise EngineFailed(f"vLLM failed: {type(error).__name__}") from error


def _answer_all(engine: AsyncLLM) -> None:
    """Fail whoever waits, whom vLLM leaves without an answer when it ends, and have it wait for nothing any more."""
    engine.output_processor.propagate_error(EngineDeadError())
    if engine.output_handler is not None:
        engine.output_handler.cancel()
