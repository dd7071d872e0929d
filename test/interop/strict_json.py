"""JSON as the protocol takes it (docs/protocol.md, sections 1.1 and 1.2)."""

from __future__ import annotations

import json
import re
from typing import Any

from errors import Refused

FORBIDDEN_KEYS = {"__proto__", "constructor"}
MAX_INTEGER = 2**53 - 1

# A string, or one of the marks that count.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],]', re.DOTALL)


def parse(raw: bytes | str, levels: int = 16, values: int = 8192) -> Any:
    """The value of a JSON text.

    Numbers with a whole value come as `int` whatever their spelling, if they are within 2^53 - 1.
    Raises Refused `malformed` for whatever section 1.2 refuses.
    """
    text = _text_of(raw)
    _check_bounds(text, levels, values)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_number,
        )
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"not JSON: {error}") from error
    _check_strings(value)
    return value


def dump(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _text_of(raw: bytes | str) -> str:
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise Refused("malformed", f"not UTF-8: {error}") from error
    if text.startswith("\ufeff"):
        raise Refused("malformed", "a byte order mark stands before the JSON")
    return text


def _check_bounds(text: str, levels: int, values: int) -> None:
    """Before anything is parsed, so that the parser never sees what is too deep or too much."""
    depth = count = 0
    for match in _TOKENS.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            count += 1
        elif mark == ",":
            count += 1
        elif mark in "]}":
            depth -= 1
        else:
            continue
        if depth > levels:
            raise Refused("malformed", f"nests deeper than {levels} levels")
        if count > values:
            raise Refused("malformed", f"holds more than {values} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        _whole(key)
        if key in made:
            raise Refused("malformed", f"the key {key!r} stands twice in one object")
        if key in FORBIDDEN_KEYS:
            raise Refused("malformed", f"the key {key!r} is not taken")
        made[key] = value
    return made


def _check_strings(value: Any) -> None:
    """Refuses half a surrogate pair anywhere in a value. Python's parser lets it through."""
    if isinstance(value, str):
        _whole(value)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            _check_strings(item)


def _whole(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("malformed", "half a surrogate pair in a string") from error


def _constant(name: str) -> Any:
    raise Refused("malformed", f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    # Long ones are outside of every field's bounds; Python refuses to read thousands of digits at all.
    return int(digits) if len(digits) <= 20 else float(digits)


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= MAX_INTEGER else number
