"""Ids and seeds never change, or records of two releases would not be the same forecast."""

import msgspec
import numpy as np
import pytest

from kronos_stream.wire.ids import (
    context_digest,
    digest,
    forecast_id,
    forecast_seed,
    spec_digest,
    stable_int,
)
from kronos_stream.wire.messages import ForecastSpec

SPEC = ForecastSpec(
    lookback=512,
    anchor_every=64,
    horizon=12,
    paths=64,
    temperature=1.0,
    top_k=0,
    top_p=0.9,
    seed=7,
    join="none",
    tiny_prices="skip",
    fine_head_rotary="upstream",
    gaps="fill",
    calendar="24/7",
    dtype="float32",
)
IDENTITY = ("BTCUSDT", "5m", 1_700_000_100_000, "0123456789abcdef", SPEC)
OTHER = {
    "join": "last_close",
    "tiny_prices": "scale",
    "fine_head_rotary": "none",
    "gaps": "skip",
    "calendar": "XNYS",
    "dtype": "bfloat16",
}


def test_literal_values() -> None:
    assert digest("a", 1) == "484c670ce4753ed75a3cc908af49224a"
    assert stable_int("a", 1) == 1225621968716036906
    assert spec_digest(SPEC) == "28a7496e98a36ec0"
    assert forecast_id(*IDENTITY) == "dcdaebf745a809bcedfcb92696ec7ec4"
    assert forecast_seed(*IDENTITY) == 2239231027041964223


@pytest.mark.parametrize("name", ForecastSpec.__struct_fields__)
def test_every_setting_changes_id_and_seed(name: str) -> None:
    value = OTHER[name] if name in OTHER else getattr(SPEC, name) + 1
    changed = (*IDENTITY[:4], msgspec.structs.replace(SPEC, **{name: value}))
    assert forecast_id(*changed) != forecast_id(*IDENTITY)
    assert forecast_seed(*changed) != forecast_seed(*IDENTITY)


@pytest.mark.parametrize(
    "changed",
    [
        ("ETHUSDT", *IDENTITY[1:]),
        ("BTCUSDT", "1m", *IDENTITY[2:]),
        (*IDENTITY[:2], 1_700_000_400_000, *IDENTITY[3:]),
        (*IDENTITY[:3], "f" * 16, SPEC),
    ],
)
def test_every_part_changes_id_and_seed(changed: tuple[str, str, int, str, ForecastSpec]) -> None:
    assert forecast_id(*changed) != forecast_id(*IDENTITY)
    assert forecast_seed(*changed) != forecast_seed(*IDENTITY)


def test_order_of_keys_does_not_matter_and_integers_fit_63_bits() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert all(0 <= stable_int(i) < 2**63 for i in range(100))


def test_context_digest_is_literal_and_sees_every_array() -> None:
    times, revisions = np.arange(2) * 300_000, np.array([0, 1])
    values = np.arange(12.0).reshape(2, 6)
    known = context_digest(times, revisions, values)
    assert known == "76083094993e7d02e360fa53d473a480"
    assert context_digest(times, revisions, np.asfortranarray(values)) == known
    assert context_digest(times + 1, revisions, values) != known
    assert context_digest(times, revisions + 1, values) != known
    assert context_digest(times, revisions, values + 1) != known
