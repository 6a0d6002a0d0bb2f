"""Exact decimals, and the rounding of numbers."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos_stream.errors import RejectedError
from kronos_stream.wire.decimals import scaled


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 10**30), st.integers(0, 8))
def test_text_is_exact(units: int, digits: int) -> None:
    whole, fraction = divmod(units, 10**digits)
    text = f"{whole}.{fraction:0{digits}d}" if digits else str(whole)
    assert scaled(text, digits, "price") == units


@settings(derandomize=True, deadline=None)
@given(st.floats(1e-6, 1e15), st.integers(0, 8))
def test_floats_are_rounded_half_even_from_their_shortest_form(value: float, digits: int) -> None:
    with localcontext() as context:
        context.prec = 200
        quantum = Decimal(1).scaleb(-digits)
        exact = Decimal(repr(value)).quantize(quantum, ROUND_HALF_EVEN)
        expected = int(exact.scaleb(digits))
    if expected:
        assert scaled(value, digits, "price") == expected
    else:
        with pytest.raises(RejectedError, match="price_not_positive"):
            scaled(value, digits, "price")


@pytest.mark.parametrize(("value", "expected"), [(0.125, 12), (0.135, 14), (1.005, 100), (7, 700)])
def test_ties_go_to_the_even_neighbour(value: float, expected: int) -> None:
    assert scaled(value, 2, "qty") == expected


@pytest.mark.parametrize("text", ["1.5", "1.50000000000", "15e-1", "+1.5", "01.5"])
def test_forms_of_the_same_number(text: str) -> None:
    assert scaled(text, 8, "price") == 150_000_000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0", "qty_not_positive"),
        ("-1", "qty_not_positive"),
        (-0.5, "qty_not_positive"),
        (0, "qty_not_positive"),
        ("", "qty_not_a_number"),
        ("NaN", "qty_not_a_number"),
        ("Infinity", "qty_not_a_number"),
        (float("nan"), "qty_not_a_number"),
        ("1_0", "qty_not_a_number"),
        (" 1", "qty_not_a_number"),
        ("١", "qty_not_a_number"),
        ("1.123456789", "too_many_digits"),
        ("1e-9", "too_many_digits"),
        ("1e400", "too_many_digits"),
        ("9" * 50, "too_many_digits"),
        (10**400, "too_many_digits"),
    ],
)
def test_what_is_no_amount(value: str | float, reason: str) -> None:
    with pytest.raises(RejectedError, match="qty") as caught:
        scaled(value, 8, "qty")
    assert caught.value.reason == reason
