"""The burst gate on a clock of its own: when a batch is ready, and what is in it."""

import pytest

from kronos_stream.forecasts.gate import Gate

KNOWN = 5


class _Timed:
    """A gate, and the time in milliseconds that it goes by."""

    def __init__(
        self, symbols: str = "", *, max_batch: int = 64, max_batch_ms: int = 1_000
    ) -> None:
        self.ms = 1_000
        self.gate: Gate[str] = Gate(
            gate_ms=25,
            max_batch=max_batch,
            max_batch_ms=max_batch_ms,
            monotonic=lambda: self.ms / 1000,
        )
        for i, symbol in enumerate(symbols):
            self.gate.add(symbol, f"{symbol}{i}")

    def wait_ms(self, at_ms: int | None = None) -> int | None:
        if at_ms is not None:
            self.ms = at_ms
        wait_s = self.gate.wait_s(KNOWN)
        return None if wait_s is None else round(1000 * wait_s)

    def add(self, symbol: str, item: str, at_ms: int) -> None:
        self.ms = at_ms
        self.gate.add(symbol, item)

    def take(self, at_ms: int | None = None, *, newest_first: bool = False) -> list[str]:
        if at_ms is not None:
            self.ms = at_ms
        return self.gate.take(newest_first=newest_first)


def test_an_empty_gate_waits_for_an_item() -> None:
    timed = _Timed()
    assert timed.wait_ms() is None
    assert timed.take() == []
    assert len(timed.gate) == 0


def test_a_batch_is_ready_25_ms_after_its_first_item() -> None:
    timed = _Timed()
    timed.add("A", "a", 1_000)
    timed.add("B", "b", 1_020)
    waits = [timed.wait_ms(now) for now in (1_000, 1_010, 1_024, 1_025, 2_000)]
    assert waits == [25, 15, 1, 0, 0]
    assert timed.take(1_025) == ["a", "b"]
    assert timed.wait_ms(1_026) is None


def test_or_when_every_known_symbol_has_closed() -> None:
    timed = _Timed("ABCD")
    assert timed.wait_ms(1_001) == 24
    timed.add("E", "e", 1_001)
    assert timed.wait_ms(1_001) == 0


def test_two_bars_of_one_symbol_are_not_two_symbols() -> None:
    assert _Timed("AAAAA").wait_ms() == 25


def test_or_when_the_batch_is_full() -> None:
    timed = _Timed("AB", max_batch=3)
    assert timed.wait_ms() == 25
    timed.add("C", "c", 1_000)
    assert timed.wait_ms() == 0


def test_a_slow_engine_makes_it_full_sooner() -> None:
    timed = _Timed("A", max_batch_ms=1_000)
    timed.gate.took(4, 2_000.0)
    assert timed.wait_ms() == 25
    timed.add("B", "b", 1_000)
    assert timed.wait_ms() == 0


def test_latecomers_form_the_next_batch_with_a_window_of_their_own() -> None:
    timed = _Timed("AB")
    assert timed.take(1_025) == ["A0", "B1"]
    timed.add("C", "late", 1_030)
    assert timed.wait_ms(1_030) == 25
    assert timed.wait_ms(1_055) == 0
    assert timed.take(1_055) == ["late"]


def test_what_does_not_fit_waits_from_then_on() -> None:
    timed = _Timed("ABCDE", max_batch=3)
    assert timed.take() == ["A0", "B1", "C2"]
    assert len(timed.gate) == 2
    assert [timed.wait_ms(now) for now in (1_000, 1_025)] == [25, 0]
    assert timed.take(1_025) == ["D3", "E4"]


def test_a_batch_holds_a_symbol_once_in_its_order() -> None:
    timed = _Timed("ABAAB")
    batches = [timed.take() for _ in range(4)]
    assert batches == [["A0", "B1"], ["A2", "B4"], ["A3"], []]


def test_the_newest_first_where_stale_ones_are_shed() -> None:
    timed = _Timed("ABA")
    assert timed.take(newest_first=True) == ["A2", "B1"]
    assert timed.take(newest_first=True) == ["A0"]


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
    timed = _Timed("ABCDE")
    for items, elapsed_ms in took:
        timed.gate.took(items, elapsed_ms)
    assert len(timed.take()) == size


def test_what_is_put_back_comes_first_and_in_order() -> None:
    timed = _Timed("ABAB")
    first = timed.take(1_030)
    timed.ms = 1_040
    timed.gate.put_back(list(zip("AB", first, strict=True)))
    assert timed.wait_ms(1_040) == 25
    assert timed.take(1_065) == first == ["A0", "B1"]
    assert timed.take(1_065) == ["A2", "B3"]
