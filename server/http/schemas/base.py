"""What all bodies have. Unknown fields are refused; limits stand in the OpenAPI document, too."""

import math
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from server.limits import MAX_DOCUMENT_TOKENS, MAX_FREE_DEPTH, MAX_FREE_VALUES, MAX_ID, MAX_SEALED
from server.text import encodable

# JSON can carry half of a surrogate pair
Text = Annotated[str, AfterValidator(encodable)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(encodable)]
SummaryId = Annotated[str, Field(max_length=MAX_ID)]
Sealed = Annotated[str, Field(max_length=MAX_SEALED, description="Of a compaction item.")]
T = TypeVar("T")


class Integers(list[int]):
    """A list of which the reader of large bodies knows that it has nothing else."""


def _as_it_is(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Known integers, unless they are to be checked: millions would hold the event loop."""
    return given if isinstance(given, Integers) else check(given)


def _writable(given: dict[str, Any]) -> dict[str, Any]:
    """What can be written as JSON again; ValueError for halves of characters, NaN, and what is large or deep."""
    waiting: list[tuple[Any, int]] = [(given, 1)]
    num_values = 1
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            encodable(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is no number that JSON has")
        elif isinstance(value, list | dict):
            num_values += len(value)
            if num_values > MAX_FREE_VALUES:
                raise ValueError(f"the object has over {MAX_FREE_VALUES} values")
            if depth > MAX_FREE_DEPTH:
                raise ValueError(f"the object is nested over {MAX_FREE_DEPTH} deep")
            children = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(child, depth + 1) for child in children]
    return given


# an object whose fields are the client's own
FreeObject = Annotated[dict[str, Any], AfterValidator(_writable)]
# checked to the first fault: a body may hold millions of them, and their errors would take gigabytes
Many = Annotated[list[T], Field(fail_fast=True)]
# whether they are in the vocabulary is seen in a thread: item by item it would hold the event loop
TokenIds = Annotated[
    Many[Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]],
    WrapValidator(_as_it_is),
    Field(max_length=MAX_DOCUMENT_TOKENS),
]
# which of the models that are served a native route's body or URL means
ModelName = Annotated[
    Text | None,
    Field(description="A served model's name, as /v1/models gives it; null is the first one's."),
]
ParseSpecial = Annotated[
    bool,
    Field(
        description="Have the texts of control tokens, as <|im_end|>, stand for these. Without, they are text as any "
        "other, since whoever wrote the text may not be whoever asks."
    ),
]
# a union's members by name, so that an error is about the one that was meant; no identifiers, as no field is named so
A_TEXT, A_LIST_OF_TEXTS = "a text", "a list of texts"
OneOrMany = Discriminator(lambda value: A_LIST_OF_TEXTS if isinstance(value, list) else A_TEXT)


class Body(BaseModel):
    """What a request says; null in place of a field that need not be there is as if it were not."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict) or None not in given.values():
            return given
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in given.items() if value is not None or name not in optional}


EXAMPLE_ID = "5f2b8c1e94d07a63b1f0c4e8a9d27356e01b7c48"  # in examples, the place of a stored summary's
EXAMPLE_MODEL = "autocompressor-default"


def example(**body: Any) -> ConfigDict:
    """For a body's OpenAPI schema: one that works, once ids of your own stand in it."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class Parameters(BaseModel):
    """What a URL has behind its question mark."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: ModelName = None
