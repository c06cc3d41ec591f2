"""What a text is."""

BYTE_ORDER_MARK = "\ufeff"  # before a file's text, in which it is none


def encodable(text: str) -> str:
    """The text; ValueError for half of a surrogate pair, which is no character and which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has an unpaired surrogate at character {error.start}") from None
    return text
