"""Render the OpenAPI document as a page without scripts that loads nothing, since many servers and their users have no internet access."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    import jinja2
    import markupsafe

PAGE_PATH: Final = "/docs"
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_TEMPLATE: Final = Path(__file__).with_name("document_page.html")
_METHODS: Final = ("get", "post")


def document_page(document: Mapping[str, Any]) -> str:
    """Render a document.

    Args:
        document: result of :func:`mistere.predictor.protocol.openapi.build_document`.

    Returns:
        A page of HTML.
    """
    return _render(orjson.dumps(document))


@lru_cache(maxsize=2)  # before and after the model is loaded
def _render(content: bytes) -> str:
    document = orjson.loads(content)
    groups = [
        {
            "name": tag["name"],
            "description": tag["description"],
            "operations": [operation for operation in _operations(document) if operation["tag"] == tag["name"]],
        }
        for tag in document["tags"]
    ]
    schemas = [
        {"name": name, "anchor": _anchor(name), "json": _pretty(schema)}
        for name, schema in document["components"]["schemas"].items()
    ]
    return _environment().get_template(_TEMPLATE.name).render(info=document["info"], groups=groups, schemas=schemas)


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method not in item:
                continue
            operation = item[method]
            yield {
                "anchor": operation["operationId"],
                "method": method.upper(),
                "path": path,
                "tag": operation["tags"][0],
                "summary": operation["summary"],
                "description": operation.get("description", ""),
                "parameters": [*item.get("parameters", []), *operation.get("parameters", [])],
                "bodies": _contents(operation.get("requestBody", {})),
                "responses": [
                    {"status": status, **_response(document, response)}
                    for status, response in sorted(operation["responses"].items())
                ],
            }


def _response(document: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in response:
        response = document["components"]["responses"][_name(response["$ref"])]
    return {"description": response["description"], "contents": _contents(response)}


def _contents(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The media types of a request or response, each with its schema and examples."""
    contents = []
    for media_type, content in message.get("content", {}).items():
        examples = {name: example["value"] for name, example in content.get("examples", {}).items()}
        if "example" in content:
            examples["example"] = content["example"]
        schema = _name(content["schema"].get("$ref", ""))
        contents.append(
            {
                "media_type": media_type,
                "schema": schema,
                "anchor": _anchor(schema),
                "description": content["schema"].get("description", ""),
                "examples": [(name.replace("_", " "), _pretty(value)) for name, value in examples.items()],
            }
        )
    return contents


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _anchor(schema: str) -> str:
    return f"schema-{schema}"


def _pretty(value: Any) -> str:
    """JSON with lists of numbers and short strings on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(
        r"\[\s+((?:[^][{}\s\"]+|\"[^\"\n]{0,40}\")(?:,\s+(?:[^][{}\s\"]+|\"[^\"\n]{0,40}\"))*)\s+\]", _joined, text
    )


def _joined(match: re.Match[str]) -> str:
    return f"[{' '.join(line.strip() for line in match[1].splitlines())}]"


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = _words
    return environment


def _words(text: str) -> markupsafe.Markup:
    """A description of the document as HTML: escaped, with its code marked up."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))  # noqa: S704  (escaped)
