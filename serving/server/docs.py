"""The API as one plain page, made from its OpenAPI document: no script, nothing from elsewhere."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DESCRIPTION = """Recommends videos and learns what is watched.

Ask `POST /v1/recommendations`, show the page, and report with `POST /v1/events` what was clicked
(`click`, at once), watched (`watch`, when it ends) and said (`like`, `dislike`, `share`, `follow`,
`comment`, `hide`), with the `page_id` of the answer. `POST /v1/related` has what to
watch next to a video. Reported events count for the next request. Errors are
`application/problem+json`; a 503 names in `Retry-After` when to come back. Each answer carries
`X-Request-ID`."""


def render(document: Mapping[str, Any]) -> str:
    """Returns the HTML of an OpenAPI document."""
    info = document["info"]
    return "".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>{_text(info['title'])} API</title>",
            '<link rel="icon" href="/assets/icon.svg">',
            '<link rel="stylesheet" href="/assets/api.css"></head><body><main>',
            f"<h1>{_text(info['title'])} API</h1>{_paragraphs(info.get('description', ''))}",
            "<p>The same for machines: <a href='openapi.json'>openapi.json</a>.</p>",
            *_operations(document),
            *_schemas(document),
            "</main></body></html>",
        ]
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {_text(path)}</code></h2>"
            yield f"<p>{_text(operation.get('summary', ''))}</p>"
            yield _paragraphs(operation.get("description", ""))
            parameters = operation.get("parameters", ())
            if parameters:
                rows = [
                    (
                        f"<code>{_text(parameter['name'])}</code> ({_text(parameter['in'])})",
                        _type(parameter["schema"]),
                        _text(_rules(parameter["schema"])),
                    )
                    for parameter in parameters
                ]
                yield _table(("Parameter", "Type", "Rules"), rows)
            body = operation.get("requestBody", {}).get("content", {})
            for kind, content in body.items():
                yield f"<p>Body (<code>{_text(kind)}</code>): {_type(content['schema'])}</p>"
            rows = [
                (f"<code>{code}</code>", _text(answer["description"]), _answer_type(answer))
                for code, answer in operation["responses"].items()
            ]
            yield _table(("Status", "Meaning", "Body"), rows)


def _answer_type(answer: Mapping[str, Any]) -> str:
    kinds = answer.get("content", {}).values()
    return ", ".join(_type(kind["schema"]) for kind in kinds if "schema" in kind)


def _schemas(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        yield f"<h2 id='{_text(name)}'>{_text(name)}</h2>"
        yield _paragraphs(schema.get("description", ""))
        required = schema.get("required", ())
        rows = [
            (
                f"<code>{_text(field)}</code>{' *' if field in required else ''}",
                _type(of),
                _text(" ".join(filter(None, (of.get("description", ""), _rules(of))))),
            )
            for field, of in schema.get("properties", {}).items()
        ]
        if rows:
            yield _table(("Field (* required)", "Type", "Meaning"), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """Returns a type in words, with links to the schemas that it names."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(f"<code>{_text(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return _text(schema.get("type", "anything"))


def _rules(schema: Mapping[str, Any]) -> str:
    """Returns limits and default in words."""
    names = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "minLength": "length ≥",
        "maxLength": "length ≤",
        "minItems": "entries ≥",
        "maxItems": "entries ≤",
    }
    rules = [
        f"{word} {one[name]}"
        for one in (schema, *schema.get("anyOf", ()))
        for name, word in names.items()
        if name in one
    ]
    if "default" in schema:
        rules.append(f"default {json.dumps(schema['default'])}")
    return f"({', '.join(rules)})" if rules else ""


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll' tabindex='0'><table><tr>{head}</tr>{body}</table></div>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part.strip())


def _text(text: str) -> str:
    return html.escape(str(text))
