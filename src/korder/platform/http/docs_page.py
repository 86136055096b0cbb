"""`/docs`: the OpenAPI document as one readable page, made on the server, without scripts.

The usual viewers fetch theirs from a third party at run time, which a venue's network may not
allow and a strict content security policy should not.
"""

import re
from collections import defaultdict
from html import escape
from typing import Any

Json = dict[str, Any]

_CODE = re.compile(r"`([^`]+)`")

_STYLE = """
:root{color-scheme:light dark;--ink:#16202c;--quiet:#5b6877;--line:#d9dfe6;--paper:#fbfcfd;
--soft:#eef2f6;--get:#0b6bcb;--post:#0a7d4f;--put:#8a5a00;--patch:#8a5a00;--delete:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--quiet:#9aa7b5;--line:#2c3743;
--paper:#11171e;--soft:#1a222b;--get:#6cb2ff;--post:#5fd0a0;--put:#e5b567;--patch:#e5b567;
--delete:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,sans-serif}main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem}
h1{margin:0 0 .25rem}h2{margin:2.5rem 0 .75rem;font-size:1.1rem}p{margin:.4rem 0}
.quiet{color:var(--quiet)}details{border:1px solid var(--line);border-radius:.6rem;
margin:.5rem 0;background:var(--soft)}summary{cursor:pointer;padding:.6rem .9rem;
display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap}
.body{padding:.25rem .9rem .9rem;background:var(--paper);border-radius:0 0 .6rem .6rem}
code,.path{font:.9em/1.4 ui-monospace,monospace}.method{font:700 .8em ui-monospace,monospace;
text-transform:uppercase;min-width:3.6rem}.get{color:var(--get)}.post{color:var(--post)}
.put{color:var(--put)}.patch{color:var(--patch)}.delete{color:var(--delete)}
table{border-collapse:collapse;width:100%;font-size:.92em}td,th{text-align:left;
vertical-align:top;padding:.3rem .8rem .3rem 0;border-top:1px solid var(--line)}a{color:inherit}
"""


def render(document: Json) -> bytes:
    """The page for an OpenAPI document, UTF-8."""
    info = document["info"]
    groups: dict[str, list[str]] = defaultdict(list)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["Other"])[0]
            groups[tag].append(_operation(method, path, operation))
    schemas = "".join(
        _schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())
    )
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(items)}" for tag, items in groups.items())
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1>"
        f'<p class="quiet">{_prose(info["description"])}</p>'
        '<p><a href="/openapi.json">openapi.json</a></p>'
        f"{body}<h2>Schemas</h2>{schemas}</main></body></html>"
    )
    return page.encode()


def _operation(method: str, path: str, operation: Json) -> str:
    parameters = "".join(
        _row(f"{p['name']} ({p['in']})", _type(p.get("schema", {})), p.get("description", ""))
        for p in operation.get("parameters", ())
    )
    responses = "".join(
        _row(status, _content(answer), answer.get("description", ""))
        for status, answer in operation["responses"].items()
    )
    parts = [f"<p>{_prose(operation.get('description') or '')}</p>"]
    if operation.get("security"):
        parts.append('<p class="quiet">Needs an access token.</p>')
    if "requestBody" in operation:
        parts.append(f"<p>Body: {_content(operation['requestBody'])}</p>")
    if parameters:
        parts.append(f"<table>{parameters}</table>")
    parts.append(f"<table>{responses}</table>")
    return (
        f'<details><summary><span class="method {method}">{method}</span>'
        f'<span class="path">{escape(path)}</span>'
        f'<span class="quiet">{_prose(operation.get("summary") or "")}</span></summary>'
        f'<div class="body">{"".join(parts)}</div></details>'
    )


def _schema(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        _row(field + ("" if field in required else " ?"), _type(kind), kind.get("description", ""))
        for field, kind in schema.get("properties", {}).items()
    )
    return (
        f'<details id="{escape(name)}"><summary class="path">{escape(name)}</summary>'
        f'<div class="body"><p>{_prose(schema.get("description", ""))}</p>'
        f"<table>{rows}</table></div></details>"
    )


def _row(first: str, second: str, third: str) -> str:
    return (
        f"<tr><td><code>{escape(first)}</code></td><td>{second}</td><td>{_prose(third)}</td></tr>"
    )


def _prose(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _content(holder: Json) -> str:
    kinds = [_type(media.get("schema", {})) for media in holder.get("content", {}).values()]
    return ", ".join(kinds)


def _type(schema: Json) -> str:
    """A schema in a few words; references link to their own entry."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for union in ("oneOf", "anyOf"):
        if union in schema:
            return " or ".join(_type(part) for part in schema[union])
    kind = schema.get("type", "")
    if isinstance(kind, list):
        kind = " or ".join(kind)
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "enum" in schema:
        return escape(" | ".join(str(value) for value in schema["enum"]))
    if "const" in schema:
        return escape(repr(schema["const"]))
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "≥"),
            ("maximum", "≤"),
            ("minLength", "length ≥"),
            ("maxLength", "length ≤"),
        )
        if key in schema
    ]
    return escape(" ".join([str(kind), schema.get("format", ""), *bounds]).strip())
