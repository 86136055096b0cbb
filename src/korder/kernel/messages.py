"""The one catalogue of user-facing text, in Korean and English.

Keys: `<code>.title` and `<code>` (its detail) for every refusal code, `<code>.<variant>` for a more
exact detail, and `field.<name>` for what is wrong with one field. `{name}` is filled from `params`.
"""

from collections.abc import Mapping
from typing import Final, Literal

Language = Literal["ko", "en"]

#: key -> (Korean, English)
MESSAGES: Final[Mapping[str, tuple[str, str]]] = {
    "invalid_request.title": ("잘못된 요청입니다", "The request is not valid"),
    "invalid_request": (
        "요청 내용을 확인하고 고쳐서 다시 보내 주세요.",
        "Check the request, correct it and send it again.",
    ),
    "invalid_request.json": (
        "본문이 올바른 JSON이 아닙니다. UTF-8 JSON으로 보내 주세요.",
        "The body is not valid JSON. Send JSON in UTF-8.",
    ),
    "invalid_request.cursor": (
        "cursor 값이 올바르지 않습니다. 받은 next_cursor를 그대로 쓰세요.",
        "The cursor is not one of ours. Use next_cursor as you received it.",
    ),
    "unauthenticated.title": ("로그인이 필요합니다", "You are not signed in"),
    "unauthenticated": (
        "유효한 액세스 토큰을 Authorization: Bearer 헤더로 보내 주세요.",
        "Send a valid access token in the header Authorization: Bearer.",
    ),
    "unauthenticated.credentials": (
        "이메일이나 비밀번호가 맞지 않습니다.",
        "The email or the password is wrong.",
    ),
    "unauthenticated.refresh": (
        "리프레시 토큰이 더는 유효하지 않습니다. 다시 로그인해 주세요.",
        "The refresh token is no longer valid. Sign in again.",
    ),
    "forbidden.title": ("권한이 없습니다", "You may not do this"),
    "forbidden": (
        "이 작업에 필요한 역할이 없습니다. 관리자에게 요청하세요.",
        "You lack the role that this needs. Ask an administrator for it.",
    ),
    "not_found.title": ("찾을 수 없습니다", "Not found"),
    "not_found": (
        "그런 대상이 없습니다. 주소와 id를 확인해 주세요.",
        "There is no such thing. Check the address and the id.",
    ),
    "method_not_allowed.title": ("허용되지 않는 메서드입니다", "Method not allowed"),
    "method_not_allowed": (
        "이 주소는 그 메서드를 받지 않습니다. Allow 헤더를 확인하세요.",
        "This address does not take that method. See the Allow header.",
    ),
    "email_taken.title": ("이미 쓰이는 이메일입니다", "This email is taken"),
    "email_taken": (
        "다른 이메일을 쓰거나 로그인해 주세요.",
        "Use another email, or sign in.",
    ),
    "sold_out.title": ("매진되었습니다", "Sold out"),
    "sold_out": (
        "남은 표가 요청한 수보다 적습니다. 수량을 줄이거나 나중에 다시 시도하세요.",
        "Fewer tickets are left than you asked for. Ask for fewer, or try again later.",
    ),
    "limit_exceeded.title": ("1인 구매 한도를 넘었습니다", "Over the limit per member"),
    "limit_exceeded": (
        "한 사람이 가질 수 있는 표의 수를 넘습니다. 수량을 줄이거나 다른 예약을 취소하세요.",
        "One member may not have that many. Ask for fewer, or cancel another reservation.",
    ),
    "sale_not_open.title": ("아직 판매 전입니다", "The sale has not opened"),
    "sale_not_open": (
        "판매 시작 시각 이후에 다시 시도하세요. 시각은 서버 시계를 따릅니다.",
        "Try again once the sale has opened by the server's clock.",
    ),
    "sale_closed.title": ("판매가 끝났습니다", "The sale is closed"),
    "sale_closed": (
        "이 행사의 표는 더는 판매하지 않습니다.",
        "Tickets of this event are no longer sold.",
    ),
    "invalid_state.title": ("지금 상태에서는 할 수 없습니다", "Not possible in this state"),
    "invalid_state": (
        "대상의 현재 상태를 다시 읽고 확인하세요.",
        "Read its current state again and see what is possible.",
    ),
    "invalid_state.last_admin": (
        "마지막 관리자의 역할은 뺄 수 없습니다. 먼저 다른 관리자를 정하세요.",
        "The last admin stays one. Make somebody else an admin first.",
    ),
    "reservation_expired.title": ("예약이 만료되었습니다", "The reservation has expired"),
    "reservation_expired": (
        "보류 기한이 지나 표가 다시 풀렸습니다. 새로 예약해 주세요.",
        "Its deadline has passed and the tickets are free again. Reserve anew.",
    ),
    "insufficient_points.title": ("포인트가 부족합니다", "Not enough points"),
    "insufficient_points": (
        "잔액이 0 아래로 내려갈 수 없습니다.",
        "The balance cannot go below zero.",
    ),
    "capacity_below_committed.title": (
        "이미 나간 표보다 적게 줄일 수 없습니다",
        "Capacity below what is committed",
    ),
    "capacity_below_committed": (
        "보류 중이거나 팔린 표의 수보다 작은 수량입니다. 더 큰 값을 쓰세요.",
        "More tickets than that are held or sold already. Use a larger number.",
    ),
    "already_checked_in.title": ("이미 입장했습니다", "Already checked in"),
    "already_checked_in": ("이 표는 이미 쓰였습니다.", "This ticket has been used."),
    "idempotency_conflict.title": (
        "다른 요청에 쓰인 키입니다",
        "The key was used for another request",
    ),
    "idempotency_conflict": (
        "같은 Idempotency-Key로 다른 내용을 보냈습니다. 새 키를 쓰세요.",
        "The same Idempotency-Key came with another body. Use a new key.",
    ),
    "queue_pass_required.title": ("대기열 통행증이 필요합니다", "A queue pass is needed"),
    "queue_pass_required": (
        "먼저 대기열에 들어가 차례를 기다려 주세요.",
        "Enter the waiting room and wait for your turn first.",
    ),
    "queue_pass_invalid.title": ("통행증이 올바르지 않습니다", "The queue pass is not valid"),
    "queue_pass_invalid": (
        "통행증이 만료되었거나 이 행사의 것이 아닙니다.",
        "It has expired, or belongs to another member or event.",
    ),
    "rate_limited.title": ("요청이 너무 많습니다", "Too many requests"),
    "rate_limited": (
        "Retry-After 만큼 기다린 뒤 다시 시도하세요.",
        "Wait for as long as Retry-After says, then try again.",
    ),
    "overloaded.title": ("지금은 처리할 수 없습니다", "Not possible right now"),
    "overloaded": (
        "잠시 뒤 같은 Idempotency-Key로 다시 시도하세요. 아무것도 바뀌지 않았거나 "
        "이미 접수된 결과를 받게 됩니다.",
        "Try again in a moment with the same Idempotency-Key: either nothing has changed, or you "
        "get the answer of what was accepted.",
    ),
    "payload_too_large.title": ("본문이 너무 큽니다", "The body is too large"),
    "payload_too_large": (
        "본문은 {max}바이트를 넘을 수 없습니다.",
        "A body may have at most {max} bytes.",
    ),
    "internal.title": ("서버 오류입니다", "An error of ours"),
    "internal": (
        "우리 쪽 오류입니다. X-Request-Id와 함께 알려 주세요.",
        "The fault is ours. Report it with the X-Request-Id.",
    ),
    "field.invalid": ("올바른 값이 아닙니다.", "Not a valid value."),
    "field.json": ("UTF-8 JSON이어야 합니다.", "Must be JSON in UTF-8."),
    "field.required": ("필요한 값입니다.", "This is required."),
    "field.unknown_field": ("알 수 없는 필드입니다.", "There is no such field."),
    "field.type": ("값의 형식이 다릅니다.", "The value has the wrong type."),
    "field.range": ("허용 범위를 벗어났습니다.", "Outside the allowed range."),
    "field.text_length": ("길이가 맞지 않습니다.", "Too short or too long."),
    "field.text": (
        "NUL이나 깨진 문자를 쓸 수 없습니다.",
        "NUL and broken characters are not allowed.",
    ),
    "field.uuid": ("UUID여야 합니다.", "Must be a UUID."),
    "field.email": ("이메일 주소여야 합니다.", "Must be an email address."),
    "field.time": (
        "시간대가 있는 RFC 3339 시각이어야 합니다.",
        "Must be an RFC 3339 time with its zone.",
    ),
    "field.order": ("시각의 순서가 맞지 않습니다.", "The times are in the wrong order."),
    "field.in_the_past": ("이미 지난 시각입니다.", "This time has passed."),
    "field.key": (
        "눈에 보이는 ASCII 1~255자여야 합니다.",
        "Must be 1 to 255 visible ASCII characters.",
    ),
}


def text(key: str, language: Language, params: Mapping[str, object] | None = None) -> str:
    """The text of a key. An unknown key raises KeyError: a missing text is a bug."""
    korean, english = MESSAGES[key]
    chosen = korean if language == "ko" else english
    return chosen.format(**params) if params else chosen


def language_of(accept_language: bytes | None) -> Language:
    """`ko` or `en` by the Accept-Language header (RFC 9110, section 12.5.4); English by default."""
    if not accept_language:
        return "en"
    best: tuple[float, Language] = (0.0, "en")
    for part in accept_language.decode("latin-1").split(",")[:20]:
        tag, _, rest = part.strip().partition(";")
        main = tag.strip().lower().split("-")[0]
        weight = _weight(rest)
        if main in ("ko", "en") and weight > best[0]:
            best = (weight, "ko" if main == "ko" else "en")
    return best[1]


def _weight(rest: str) -> float:
    name, _, value = rest.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
