"""The hot routes in OpenAPI's words; the framework cannot see them."""

from typing import Any

import msgspec

from korder.domains.reservation.contract import Availability
from korder.domains.reservation.order import QUANTITY_MAX

Json = dict[str, Any]

_UUID: Json = {"type": "string", "format": "uuid"}
_TIME: Json = {"type": "string", "format": "date-time"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _problem(text: str) -> Json:
    return {
        "description": text,
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }


def schemas() -> dict[str, Json]:
    """`components.schemas` of the hot routes."""
    _, found = msgspec.json.schema_components(
        [Availability], ref_template="#/components/schemas/{name}"
    )
    return {
        **found,
        "ReserveBody": {
            "type": "object",
            "additionalProperties": False,
            "required": ["event_id", "ticket_type_id", "quantity"],
            "properties": {
                "event_id": _UUID,
                "ticket_type_id": _UUID,
                "quantity": {"type": "integer", "minimum": 1, "maximum": QUANTITY_MAX},
            },
        },
        "HeldReservation": {
            "type": "object",
            "required": [
                "id",
                "event_id",
                "ticket_type_id",
                "quantity",
                "status",
                "amount",
                "currency",
                "expires_at",
                "created_at",
            ],
            "properties": {
                "id": _UUID,
                "event_id": _UUID,
                "ticket_type_id": _UUID,
                "quantity": {"type": "integer", "minimum": 1, "maximum": QUANTITY_MAX},
                "status": {"const": "held"},
                "amount": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "In the minor unit of `currency`.",
                },
                "currency": {"type": "string"},
                "expires_at": _TIME,
                "created_at": _TIME,
            },
        },
        "QueuedReservation": {
            "type": "object",
            "required": ["id", "status"],
            "properties": {"id": _UUID, "status": {"const": "queued"}},
        },
    }


_HEADERS: list[Json] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        "description": "Same key and same body, same answer.",
    },
    {
        "name": "Prefer",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "`respond-async` answers 202 at once.",
    },
]


def paths() -> dict[str, Json]:
    """`paths` of the hot routes."""
    location = {"schema": {"type": "string"}, "description": "Where to ask for it."}
    replayed = {"schema": {"const": "true"}, "description": "Set on a repeated answer."}
    return {
        "/v1/reservations": {
            "post": {
                "operationId": "Reserve",
                "tags": ["Reservations"],
                "summary": "Reserve tickets",
                "description": "201 is sent after the hold is committed. Without a verdict within "
                "the wait budget: 202, then ask `Location`.",
                "security": [{"bearer": []}],
                "parameters": _HEADERS,
                "requestBody": {"required": True, "content": _json(_ref("ReserveBody"))},
                "responses": {
                    "201": {
                        "description": "Held until `expires_at`",
                        "content": _json(_ref("HeldReservation")),
                        "headers": {"Idempotent-Replayed": replayed},
                    },
                    "202": {
                        "description": "Queued",
                        "content": _json(_ref("QueuedReservation")),
                        "headers": {"Location": location},
                    },
                    "404": _problem("`not_found`: no such event or ticket type on sale"),
                    "409": _problem(
                        "`sold_out`, `limit_exceeded`, `sale_not_open` or `sale_closed`"
                    ),
                    "422": _problem("`invalid_request` or `idempotency_conflict`"),
                },
            }
        },
        "/v1/events/{event_id}/availability": {
            "get": {
                "operationId": "GetAvailability",
                "tags": ["Events"],
                "summary": "What is left, at most one second old",
                "parameters": [
                    {"name": "event_id", "in": "path", "required": True, "schema": _UUID}
                ],
                "responses": {
                    "200": {"description": "The counts", "content": _json(_ref("Availability"))},
                    "404": _problem("`not_found`"),
                },
            }
        },
    }
