"""OpenAPI 3.1 as served: what the framework knows, plus the hot routes, plus what holds for all."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from korder.platform.http import operation_openapi
from korder.platform.http.common import Body
from korder.platform.http.problem import Problem

Json = dict[str, Any]

_PROBLEM = {
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
}
_TEXTS = {
    "400": "The body is not JSON: `invalid_request`",
    "401": "`unauthenticated`",
    "413": "`payload_too_large`",
    "422": "`invalid_request`",
    "503": "`overloaded`: try again after `Retry-After` seconds",
}
_REQUEST_ID = {
    "schema": {"type": "string"},
    "description": "The id of this request; a sane one sent by the client is kept.",
}
_RETRY_AFTER = {"schema": {"type": "integer", "minimum": 0}, "description": "Seconds to wait."}


def config(version: str) -> OpenAPIConfig:
    """What the framework needs to know to describe itself."""
    return OpenAPIConfig(
        title="Korder",
        version=version,
        description=(
            "Ticket reservations for the second when everybody wants the same seats. "
            "Errors are problem details (RFC 9457) with a stable `code`."
        ),
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")
            }
        ),
        render_plugins=[],
        use_handler_docstrings=False,
    )


def document(app: Litestar, hot_paths: Mapping[str, Json], hot_schemas: Mapping[str, Json]) -> Json:
    """The whole document: `hot_paths` as in `paths`, `hot_schemas` as in `components.schemas`."""
    schema: Json = msgspec.to_builtins(app.openapi_schema.to_schema())
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    (_, problem_schemas) = msgspec.json.schema_components(
        [Problem], ref_template="#/components/schemas/{name}"
    )
    components.update(problem_schemas)
    components.update(_bodies(components))
    components.update(hot_schemas)
    for path, operations in hot_paths.items():
        schema["paths"].setdefault(path, {}).update(operations)
    for operation in _operations(schema["paths"]):
        _complete(operation)
    schema["paths"].update(operation_openapi.paths())
    for operation in _operations(schema["paths"]):
        _tag_answers(operation["responses"])
    schema["paths"] = {
        _plain(path): operations for path, operations in sorted(schema["paths"].items())
    }
    return schema


def _operations(paths: Json) -> Iterator[Json]:
    for operations in paths.values():
        for operation in operations.values():
            if isinstance(operation, dict) and "responses" in operation:
                yield operation


def _bodies(components: Json) -> Json:
    """The schemas of request bodies as their decoder has them.

    The framework leaves out that unknown fields are refused, and the bounds of fields that may be
    left out.
    """
    kinds, todo = [], [Body]
    while todo:
        found = todo.pop().__subclasses__()
        kinds += [kind for kind in found if kind.__name__ in components]
        todo += found
    (_, schemas) = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {name: _lifted(schema) for name, schema in schemas.items()}


def _lifted(schema: Any) -> Any:
    """The framework wants what it has no word for under `extra`; JSON Schema wants it bare."""
    if isinstance(schema, list):
        return [_lifted(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _lifted(part) for name, part in {**schema.pop("extra", {}), **schema}.items()}


class Methods:
    """Which methods a path takes, by the document's own word."""

    def __init__(self, document: Json) -> None:
        self._templates = [
            (re.compile(re.sub(r"\\?\{[^}]*\\?\}", "[^/]+", path.replace(".", r"\."))), operations)
            for path, operations in document["paths"].items()
        ]

    def allow(self, path: str) -> bytes:
        """The value of the `Allow` header."""
        found = {"OPTIONS"}
        for template, operations in self._templates:
            if template.fullmatch(path):
                found |= {name.upper() for name in operations}
                if template.pattern == path:
                    break  # `/users/me` is not the `/users/{id}` of somebody called so
        return ", ".join(sorted(found)).encode()


def _plain(path: str) -> str:
    """Litestar writes `/v1/x/` for a router's root."""
    return path.rstrip("/") or "/"


def _complete(operation: Json) -> None:
    """What holds for every operation need not be repeated in each."""
    responses: Json = operation["responses"]
    takes_input = "requestBody" in operation or operation.get("parameters")
    always = ["503"]
    if operation.get("security"):
        always.append("401")
    if takes_input:
        always.append("422")
    if "requestBody" in operation:
        always += ["400", "413"]
    else:
        responses.pop("400", None)
    for status in always:
        known = responses.get(status, {})
        description = known.get("description", _TEXTS[status]) if status != "400" else _TEXTS["400"]
        responses[status] = {"description": description, "content": _PROBLEM}
    responses["default"] = {"description": "Any other refusal", "content": _PROBLEM}
    operation["responses"] = dict(sorted(responses.items()))


def _tag_answers(responses: Json) -> None:
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers["X-Request-Id"] = _REQUEST_ID
        if status in ("202", "429", "503"):
            headers["Retry-After"] = _RETRY_AFTER
