"""The burst gate on a clock of its own: when a batch is ready, and what is in it."""

import pytest

from kronos_stream.forecasts.gate import Gate

KNOWN = 5


def _gate(*, max_batch: int = 64, max_batch_ms: int = 1_000) -> Gate[str]:
    return Gate(gate_ms=25, max_batch=max_batch, max_batch_ms=max_batch_ms)


def _filled(symbols: str, **limits: int) -> Gate[str]:
    gate = _gate(**limits)
    for i, symbol in enumerate(symbols):
        gate.add(symbol, f"{symbol}{i}", 1_000)
    return gate


def test_an_empty_gate_waits_for_an_item() -> None:
    gate = _gate()
    assert gate.wait_ms(1_000, KNOWN) is None
    assert gate.take(1_000, newest_first=False) == []
    assert len(gate) == 0


def test_a_batch_is_ready_25_ms_after_its_first_item() -> None:
    gate = _gate()
    gate.add("A", "a", 1_000)
    gate.add("B", "b", 1_020)
    waits = [gate.wait_ms(now, KNOWN) for now in (1_000, 1_010, 1_024, 1_025, 2_000)]
    assert waits == [25, 15, 1, 0, 0]
    assert gate.take(1_025, newest_first=False) == ["a", "b"]
    assert gate.wait_ms(1_026, KNOWN) is None


def test_or_when_every_known_symbol_has_closed() -> None:
    gate = _filled("ABCD")
    assert gate.wait_ms(1_001, KNOWN) == 24
    gate.add("E", "e", 1_001)
    assert gate.wait_ms(1_001, KNOWN) == 0


def test_two_bars_of_one_symbol_are_not_two_symbols() -> None:
    assert _filled("AAAAA").wait_ms(1_000, KNOWN) == 25


def test_or_when_the_batch_is_full() -> None:
    gate = _filled("AB", max_batch=3)
    assert gate.wait_ms(1_000, KNOWN) == 25
    gate.add("C", "c", 1_000)
    assert gate.wait_ms(1_000, KNOWN) == 0


def test_a_slow_engine_makes_it_full_sooner() -> None:
    gate = _filled("A", max_batch_ms=1_000)
    gate.took(4, 2_000.0)
    assert gate.wait_ms(1_000, KNOWN) == 25
    gate.add("B", "b", 1_000)
    assert gate.wait_ms(1_000, KNOWN) == 0


def test_latecomers_form_the_next_batch_with_a_window_of_their_own() -> None:
    gate = _filled("AB")
    assert gate.take(1_025, newest_first=False) == ["A0", "B1"]
    gate.add("C", "late", 1_030)
    assert gate.wait_ms(1_030, KNOWN) == 25
    assert gate.wait_ms(1_055, KNOWN) == 0
    assert gate.take(1_055, newest_first=False) == ["late"]


def test_what_does_not_fit_waits_from_then_on() -> None:
    gate = _filled("ABCDE", max_batch=3)
    assert gate.take(1_000, newest_first=False) == ["A0", "B1", "C2"]
    assert len(gate) == 2
    assert [gate.wait_ms(now, KNOWN) for now in (1_000, 1_025)] == [25, 0]
    assert gate.take(1_025, newest_first=False) == ["D3", "E4"]


def test_a_batch_holds_a_symbol_once_in_its_order() -> None:
    gate = _filled("ABAAB")
    batches = [gate.take(1_000, newest_first=False) for _ in range(4)]
    assert batches == [["A0", "B1"], ["A2", "B4"], ["A3"], []]


def test_the_newest_first_where_stale_ones_are_shed() -> None:
    gate = _filled("ABA")
    assert gate.take(1_000, newest_first=True) == ["A2", "B1"]
    assert gate.take(1_000, newest_first=True) == ["A0"]


@pytest.mark.parametrize(
    ("took", "size"),
    [
        ([], 5),
        ([(0, 900.0)], 5),
        # As long as it may be: neither smaller nor larger.
        ([(4, 1_000.0)], 5),
        ([(4, 2_000.0)], 2),
        ([(1, 9_999.0)], 1),
        # A slow batch of one is the start of growing again, if the next ones are fast and full.
        ([(1, 9_999.0), (1, 400.0)], 2),
        ([(1, 9_999.0), (1, 400.0), (2, 400.0)], 4),
        ([(1, 9_999.0), (1, 600.0)], 1),
        ([(4, 2_000.0), (1, 100.0)], 2),
    ],
)
def test_a_running_batch_is_capped_by_what_the_last_ones_took(
    took: list[tuple[int, float]], size: int
) -> None:
    gate = _filled("ABCDE")
    for items, elapsed_ms in took:
        gate.took(items, elapsed_ms)
    assert len(gate.take(1_000, newest_first=False)) == size


def test_draining_empties_it_and_shuts_the_window() -> None:
    gate = _filled("AAB")
    assert gate.drain() == ["A0", "A1", "B2"]
    assert len(gate) == 0
    assert gate.wait_ms(9_999, KNOWN) is None


def test_what_is_put_back_comes_first_and_in_order() -> None:
    gate = _filled("ABAB")
    first = gate.take(1_030, newest_first=False)
    gate.put_back(list(zip("AB", first, strict=True)), 1_040)
    assert gate.wait_ms(1_040, KNOWN) == 25
    assert gate.take(1_065, newest_first=False) == first == ["A0", "B1"]
    assert gate.take(1_065, newest_first=False) == ["A2", "B3"]
