"""The judges, by name."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.judges.judge import KEY, Judge, Lack, Target
from tests.judges.places import compliance_suite, python_of, python_packages

PROGRAMS = Path(__file__).parent / "programs"
COMPLY = ("llm-comply==0.5.0",)
NO_TOOLS = Lack("the model's chat template has no tools", r"HTTP 4(00|22)")
NO_IMAGES = Lack("the model reads text alone", r"HTTP 4(00|22)")


def comply_command(form: str, environment: Path, target: Target) -> Sequence[str | Path]:
    program = [python_of(environment), "-m", "llm_comply.cli", "--json", "--format", form]
    return [*program, "--base-url", target.url, "--api-key", KEY, "--model", target.model]


def suite_command(environment: Path, target: Target) -> Sequence[str | Path]:
    program = [environment / "node_modules" / ".bin" / "bun", "bin/compliance-test.ts", "--json"]
    return [*program, "--base-url", target.url, "--api-key", KEY, "--model", target.model]


def own_command(name: str, environment: Path, target: Target) -> Sequence[str | Path]:
    return [python_of(environment), PROGRAMS / f"{name}.py", target.url, target.model]


def with_packages(*requirements: str) -> partial[Path]:
    return partial(python_packages, requirements=requirements)


JUDGES = {
    "llm-comply-chat": Judge(
        with_packages(*COMPLY),
        partial(comply_command, "openai-chat"),
        {"chat-tool-calling": NO_TOOLS, "chat-image-input": NO_IMAGES},
    ),
    "llm-comply-responses": Judge(
        with_packages(*COMPLY),
        partial(comply_command, "open-responses"),
        {"tool-calling": NO_TOOLS, "image-input": NO_IMAGES},
    ),
    "openresponses-suite": Judge(compliance_suite, suite_command, {"tool-calling": NO_TOOLS, "image-input": NO_IMAGES}),
    "openai": Judge(with_packages("openai[realtime]==3.57.0"), partial(own_command, "openai_package")),
    "openai-agents": Judge(with_packages("openai-agents==0.24.0"), partial(own_command, "agents_session")),
    "langchain": Judge(with_packages("langchain-openai==1.7.4"), partial(own_command, "langchain_responses")),
    "openresponses-types": Judge(
        with_packages("openresponses-types==2.4.0", "httpx>=0.28,<1", "websockets>=15,<17"),
        partial(own_command, "objects_and_events"),
    ),
}
