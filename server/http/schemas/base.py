"""What all bodies have. Unknown fields are refused; limits stand in the OpenAPI document, too."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field

from server.limits import MAX_ID
from server.text import encodable

# JSON can carry half of a surrogate pair
Text = Annotated[str, AfterValidator(encodable)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(encodable)]
SummaryId = Annotated[str, Field(max_length=MAX_ID)]
ParseSpecial = Annotated[
    bool,
    Field(
        description="Have the texts of control tokens, as <|im_end|>, stand for these. Without, they are text as any "
        "other, since whoever wrote the text may not be whoever asks."
    ),
]
TokenIds = list[Annotated[int, Field(ge=0)]]
# a union's members by name, so that an error is about the one that was meant; no identifiers, as no field is named so
A_TEXT, A_LIST_OF_TEXTS = "a text", "a list of texts"
OneOrMany = Discriminator(lambda value: A_LIST_OF_TEXTS if isinstance(value, list) else A_TEXT)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


EXAMPLE_ID = "5f2b8c1e94d07a63b1f0c4e8a9d27356e01b7c48"  # in examples, the place of a stored summary's


def example(**body: Any) -> ConfigDict:
    """For a body's OpenAPI schema: one that works, once ids of your own stand in it."""
    return ConfigDict(json_schema_extra={"examples": [body]})
