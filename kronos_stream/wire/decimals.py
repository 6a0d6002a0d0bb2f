"""Prices and quantities as exact integers: a decimal × 10^digits."""

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final

from ..errors import RejectedError

MAX_CHARS: Final = 40
"""Of a number in text: what is longer is junk, not a price."""
_EXACT: Final = Context(prec=120)
_POWERS: Final = [10**n for n in range(64)]


def scaled(value: str | int | float, digits: int, field: str) -> int:
    """`value` × 10^`digits` as an integer above zero.

    Text is exact: more decimals than `digits` are rejected (trailing zeros do not count). Numbers
    are rounded half-even from their shortest decimal form. RejectedError with the reason
    `{field}_not_positive`, `{field}_not_a_number` or `too_many_digits`.
    """
    if isinstance(value, str):
        whole, _, fraction = value.partition(".")
        plain = whole.isdigit() and (fraction.isdigit() or not fraction) and value.isascii()
        if plain and len(fraction) <= digits and len(value) <= MAX_CHARS:
            result: int = int(whole + fraction) * _POWERS[digits - len(fraction)]
        else:
            result = _from_text(value, digits, field)
    else:
        result = _rounded(value, digits, field)
    if result <= 0:
        raise RejectedError(f"{field}_not_positive", f"{field}: expected above 0, got {value!r}")
    return result


def _from_text(text: str, digits: int, field: str) -> int:
    shown = text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + "..."
    if len(text) > MAX_CHARS:
        raise RejectedError("too_many_digits", f"{field}: {len(text)} characters, got {shown!r}")
    if not text.isascii() or "_" in text or text != text.strip():
        # Python's Decimal would take these.
        raise RejectedError(
            f"{field}_not_a_number", f"{field}: expected a decimal number, got {shown!r}"
        )
    number = _decimal(text, field)
    exact = number.scaleb(digits, _EXACT)
    if exact != exact.to_integral_value():
        raise RejectedError(
            "too_many_digits", f"{field}: expected at most {digits} decimals, got {shown!r}"
        )
    return int(exact)


def _rounded(value: int | float, digits: int, field: str) -> int:
    number = _decimal(repr(value), field)
    return int(number.scaleb(digits, _EXACT).to_integral_value(ROUND_HALF_EVEN))


def _decimal(text: str, field: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise RejectedError(
            f"{field}_not_a_number", f"{field}: expected a decimal number, got {text!r}"
        ) from None
    if not number.is_finite():
        raise RejectedError(
            f"{field}_not_a_number", f"{field}: expected a finite number, got {text!r}"
        )
    if abs(number.adjusted()) > MAX_CHARS and number:
        raise RejectedError("too_many_digits", f"{field}: out of range, got {text[:MAX_CHARS]!r}")
    return number
