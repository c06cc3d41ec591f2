"""Write docs/openapi.json, docs/api.md and the page that /docs shows from the application.

`--check` only tells whether they are up to date.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import markdown

from server.core.build import open_core
from server.http.app import create_app
from server.http.schemas.base import EXAMPLE_ID, EXAMPLE_MODEL
from server.settings import Settings

Json = dict[str, Any]
FOLDER = Path(__file__).parent
STATIC = FOLDER.parent / "server" / "http" / "static"
SHAPE_OF = {"application/octet-stream": "a file", "text/event-stream": "server-sent events", "text/plain": "text"}
TABLE = ["| field | type | default | |", "|---|---|---|---|"]

OPENING = """# The HTTP API

Written by `make docs` from the document that a server gives at `/openapi.json`; it shows this page at `/docs`. Every
example below works as it stands after these lines, which need a running server (`make serve`); what is deleted is
`$SPARE` or `$SPARE_RESPONSE`, so that the page can be pasted from top to bottom:

```sh
URL=${URL:-http://127.0.0.1:8000}
JSON='Content-Type: application/json'
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
ID=$(curl -s $URL/compress -F file=@examples/chapter.txt | field id)
SPARE=$(curl -s $URL/compress -H "$JSON" -d '{"text": "This page is not kept."}' | field id)
MODEL=$(curl -s $URL/v1/models | python3 -c "import json, sys; print(json.load(sys.stdin)['data'][0]['id'])")
JOB=$(curl -s $URL/jobs/compress -H "$JSON" -d '{"text": "The lamp went out."}' | field id)
ASKED='{"model": "'$MODEL'", "input": "Who keeps the lighthouse?", "max_output_tokens": 16}'
RESPONSE=$(curl -s $URL/v1/responses -H "$JSON" -d "$ASKED" | field id)
SPARE_RESPONSE=$(curl -s $URL/v1/responses -H "$JSON" -d "$ASKED" | field id)
curl -s "$URL/summaries/$ID?format=safetensors" -o summary.safetensors
```

Whoever sends `Authorization: Bearer KEY` has summaries of their own: the same text has another id under another
key, its metadata is given, read and listed under that key alone, and an equal `Idempotency-Key` is another. All who
send no key are one caller and share theirs: what one of them gives is added to what another gave. A key is not
checked: it only tells callers apart, so let it be one that nobody guesses. A summary is read, prompted with and
deleted by whoever has its id.

A body with a field that is not in its table is refused. An error is `{"error": {"message", "type", "param",
"code"}}`; its message names the value and the limit. Statuses: 400 and 422 the request is wrong, 403 a page or a host
name of elsewhere, 404 no such summary, model, corpus or job, 409 a summary of another model, 413 too long, 415 an
unknown Content-Encoding, 424 the engine failed on this request, 429 too busy, or the bodies of all requests too large
together (with `Retry-After`), 503 not ready, 507 the store is full. `/v1/completions`, `/v1/chat/completions` and
`/v1/models` say 400 for 413 and 422, as OpenAI does, `/v1/responses` for 409, too. Bodies may be gzip or zstd. Where
the engine may have worked, the headers `x-queue-time`, `x-inference-time` and `x-total-time` say how long, in seconds.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is out of date")
    is_check = parser.parse_args().check
    document = asyncio.run(openapi())
    text = page(document)
    pages = {
        FOLDER / "openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        FOLDER / "api.md": text,
        STATIC / "api.html": as_html(text),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if is_check:
        print("\n".join(f"{path.name} is out of date: make docs" for path in stale))
        return int(bool(stale))
    for path in stale:
        path.write_text(pages[path])
        print(f"wrote {path.relative_to(FOLDER.parent)}")
    return 0


async def openapi() -> Json:
    """The document that a server gives, whichever its model."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_core(Settings(model="paper", store=f"sqlite:{folder}/store.sqlite3")) as core:
            return create_app(core).openapi()


def as_html(text: str) -> str:
    """The same for a browser, without a script."""
    body = markdown.markdown(text, extensions=["fenced_code", "tables", "toc"])
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>autocompressor: the HTTP API</title>\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="icon" href="/static/icon.svg">\n'
        f'<link rel="stylesheet" href="/static/api.css">\n<main>\n{body}\n</main>\n</html>\n'
    )


def page(document: Json) -> str:
    """The Markdown page: an endpoint a section, then the objects that they name."""
    schemas = document["components"]["schemas"]
    sections = [OPENING]
    bodies = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            sections.append(endpoint(f"{method.upper()} {path}", operation, schemas))
            bodies |= {name for name in [body_of(operation)] if name}
    sections.append("## Objects\n")
    sections += [objects(name, schema) for name, schema in sorted(schemas.items()) if name not in bodies]
    return "\n".join(sections)


def endpoint(title: str, operation: Json, schemas: Json) -> str:
    lines = [f"## {title}", "", operation["description"].strip(), "", "```sh", curl(title, operation, schemas), "```"]
    rows = [
        row(f"`{one['name']}` ({one['in']})", one["schema"], is_required=one["required"])
        for one in operation.get("parameters", [])
    ]
    body = body_of(operation)
    if body:
        rows += fields(schemas[body])
    if rows:
        lines += ["", *TABLE, *rows]
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data")
    if form:
        lines += ["", "As a form, which files come in:", "", *TABLE, *fields(form["schema"])]
    answers = {
        shape(media.get("schema", {})) if kind == "application/json" else SHAPE_OF[kind]
        for status, response in operation["responses"].items()
        for kind, media in response.get("content", {}).items()
        if status.startswith("2")
    }
    statuses = sorted(status for status in operation["responses"] if status.startswith("2"))
    return "\n".join(
        [*lines, "", f"Answers {' or '.join(statuses)} with {' or '.join(sorted(answers) or ['text'])}.", ""]
    )


def objects(name: str, schema: Json) -> str:
    about = schema.get("description", "").strip()
    lines = [f"### {name}", "", *([about, ""] if about else []), *TABLE, *fields(schema), ""]
    return "\n".join(lines)


def curl(title: str, operation: Json, schemas: Json) -> str:
    """A command that works once the page's first lines have run."""
    method, path = title.split()
    # the examples below the one that deletes a summary need theirs
    spare = "SPARE" if method == "DELETE" else ""
    values = {
        "{summary_id}": f"${spare or 'ID'}",
        "{job_id}": "$JOB",
        "{model_id}": "$MODEL",
        "{response_id}": f"${spare}{'_' if spare else ''}RESPONSE",
    }
    address = f"$URL{path}"
    for name, value in values.items():
        address = address.replace(name, value)
    verb = "" if method == "GET" or ("requestBody" in operation and method == "POST") else f" -X {method}"
    body = body_of(operation)
    if body:
        (example,) = schemas[body]["examples"]
        text = json.dumps(example, ensure_ascii=False).replace(EXAMPLE_ID, "'$ID'").replace(EXAMPLE_MODEL, "'$MODEL'")
        return f"curl -s{verb} {address} -H \"$JSON\" -d '{text}'"
    return f"curl -s{verb} {address}{' --data-binary @summary.safetensors' if method == 'PUT' else ''}"


def body_of(operation: Json) -> str | None:
    """The name of the JSON body's schema."""
    content = operation.get("requestBody", {}).get("content", {})
    return named(content["application/json"]["schema"]) if "application/json" in content else None


def fields(schema: Json) -> list[str]:
    """A row each, what is required first."""
    required = schema.get("required", [])
    properties = sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required)
    return [row(f"`{name}`", one, is_required=name in required) for name, one in properties]


def row(name: str, schema: Json, *, is_required: bool) -> str:
    default = "required" if is_required else json.dumps(schema.get("default")) if "default" in schema else ""
    text = schema.get("description", "").replace("\n", " ").replace("|", "\\|")
    return f"| {name} | {shape(schema)} | {default} | {text} |"


def shape(schema: Json) -> str:
    """A schema's type in words, with its limits; an object by a link to its table."""
    if "$ref" in schema:
        return link(named(schema))
    for joined in ("anyOf", "oneOf"):
        if joined in schema:
            return " or ".join(dict.fromkeys(shape(one) for one in schema[joined] if one.get("type") != "null"))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {shape(schema.get('items', {}))}{limits(schema)}"
    return f"{schema.get('type', 'any')}{limits(schema)}"


def limits(schema: Json) -> str:
    words = [
        f"{sign} {_number(schema[key])}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    words += [
        f"{word} {schema[key]}"
        for key, word in (("minLength", "at least"), ("maxLength", "at most"), ("minItems", "at least"),
                          ("maxItems", "at most"), ("maxProperties", "at most"))
        if key in schema
    ]  # fmt: skip
    return f" ({', '.join(words)})" if words else ""


def _number(value: float) -> str:
    """Whole ones without a point; limits stand as floats in a document that JSON has been through."""
    return str(int(value)) if value == int(value) and value < 2**53 else f"{value:g}"


def link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def named(schema: Json) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


if __name__ == "__main__":
    sys.exit(main())
