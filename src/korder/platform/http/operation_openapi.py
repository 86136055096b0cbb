"""Health, metrics and the description itself in OpenAPI's words."""

from typing import Any

Json = dict[str, Any]

_TAG = ["Operation"]


def _says(*words: str) -> Json:
    return {"type": "string", "enum": list(words)}


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def _answer(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _get(name: str, summary: str, responses: dict[str, Json]) -> dict[str, Json]:
    return {"get": {"operationId": name, "tags": _TAG, "summary": summary, "responses": responses}}


def paths() -> dict[str, Json]:
    """`paths` of the operation routes; complete but for what every answer carries."""
    parts = {"type": "object", "additionalProperties": _says("ok", "unavailable")}
    well = _object(status=_says("ok"), parts=parts)
    unwell = _object(status=_says("unavailable"), parts=parts)
    problem = {"$ref": "#/components/schemas/Problem"}
    text: Json = {"type": "string"}
    return {
        "/health/live": _get(
            "Live",
            "Whether this process turns its event loop",
            {"200": _answer("It does", "application/json", _object(status=_says("ok")))},
        ),
        "/health/ready": _get(
            "Ready",
            "Whether every part answers, each by name",
            {
                "200": _answer("All do", "application/json", well),
                "503": _answer("Some do not", "application/json", unwell),
            },
        ),
        "/metrics": _get(
            "Metrics",
            "Prometheus metrics, for the networks of `KORDER_METRICS_NETWORKS` only",
            {
                "200": _answer("The metrics of all processes", "text/plain", text),
                "404": _answer("Asked from outside", "application/problem+json", problem),
            },
        ),
        "/openapi.json": _get(
            "OpenApi",
            "This document",
            {"200": _answer("OpenAPI 3.1", "application/json", {"type": "object"})},
        ),
        "/docs": _get(
            "Docs",
            "This document as a page",
            {"200": _answer("HTML", "text/html", text)},
        ),
    }
