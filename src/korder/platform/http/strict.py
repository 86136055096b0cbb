"""Bodies decoded straight into the type that the handler names, without coercion.

The framework decodes a body without its type and then converts leniently: `"5"` and `true` would
become 5 and 1, and a number a time. The contract refuses wrong types.
"""

from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.types import Empty

T = TypeVar("T")


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON body has the handler's type already, if that is a struct."""

    async def json(self) -> Any:
        """The decoded body. Raises msgspec.ValidationError or DecodeError."""
        field = self.route_handler.parsed_data_field
        wanted = None if field is None else field.annotation
        if not (isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)):
            return await super().json()
        if self._connection_state.json is Empty:
            self._connection_state.json = decode(_decoder(wanted), await self.body())
        return self._connection_state.json


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """The body as what the decoder makes of it.

    Raises msgspec.ValidationError for JSON of the wrong shape, and another msgspec.DecodeError for
    what is no JSON at all. The decoder complains of whichever it meets first, so a body that it
    calls invalid is read once more, to its end.
    """
    try:
        return decoder.decode(body)
    except UnicodeDecodeError:
        raise msgspec.DecodeError("not UTF-8") from None
    except msgspec.ValidationError:
        if not _parses(body):
            raise msgspec.DecodeError("not JSON") from None
        raise


def _parses(body: bytes) -> bool:
    try:
        body.decode()
        msgspec.json.decode(body)
    except (msgspec.ValidationError, RecursionError):
        return True  # a number or a nesting past all bounds: JSON of the wrong shape
    except (UnicodeDecodeError, msgspec.DecodeError):
        return False
    return True


@lru_cache(maxsize=256)
def _decoder(wanted: type[msgspec.Struct]) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(wanted)
