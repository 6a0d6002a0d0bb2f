"""The engine against recomputation from scratch, under any interleaving of what can happen."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from kronos_stream.engine.core import Engine
from kronos_stream.errors import EngineError
from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.model.features import scale_of
from kronos_stream.wire.messages import ForecastSpec
from tests.model.peer import SMALL, bars
from tests.threads import threads

from .conftest import multiplying_in_bfloat16
from .requests import paths_of, recomputed, request, spec, tiny_pair

SYMBOLS = ("AAA", "BBB", "CCC")


def no_clock() -> int:
    return 0


def engine_of(wanted: ForecastSpec, *, slots: int = 100, model_seed: int = 0) -> Engine:
    engine = Engine(*tiny_pair(model_seed), wanted)
    engine.cache.capacity = slots
    return engine


def close_to(ours: np.ndarray, theirs: np.ndarray, std: np.ndarray) -> bool:
    """Within 1e-4 in normalised values: a flipped token would be off by far more."""
    return bool((np.abs(ours - theirs) <= 1e-4 * (std + 1e-5)).all())


class Interleavings(RuleBasedStateMachine):
    """Bars close, some are revised, slots are evicted, idle work is done or not, the engine
    restarts: each forecast equals the one from scratch, and a cold engine's bit for bit."""

    anchor_every = 1

    @initialize(join=st.sampled_from(["none"]), top_p=st.sampled_from([1.0, 0.8]))
    def begin(self, join: str, top_p: float) -> None:
        self.spec = spec(anchor_every=self.anchor_every, join=join, top_p=top_p)
        self.series = {s: bars(200, i) for i, s in enumerate(SYMBOLS)}
        self.rows = dict.fromkeys(SYMBOLS, 60)
        self.revisions = dict.fromkeys(SYMBOLS, 0)
        self.pair = tiny_pair()
        self.engine = engine_of(self.spec, slots=2)

    @rule(symbols=st.sets(st.sampled_from(SYMBOLS), min_size=1))
    def closes(self, symbols: set[str]) -> None:
        for symbol in symbols:
            self.rows[symbol] += 1
            self.revisions[symbol] = 0
        self.check(sorted(symbols))

    @rule(symbol=st.sampled_from(SYMBOLS), factor=st.floats(0.99, 1.01))
    def revises(self, symbol: str, factor: float) -> None:
        self.series[symbol][self.rows[symbol] - 1] *= factor
        self.revisions[symbol] += 1
        self.check([symbol])

    @rule(symbol=st.sampled_from(SYMBOLS))
    def replays(self, symbol: str) -> None:
        self.check([symbol])

    @rule(units=st.integers(1, 40))
    def idles(self, units: int) -> None:
        for _ in range(units):
            self.engine.step_idle()

    @rule(symbol=st.sampled_from(SYMBOLS))
    def evicts(self, symbol: str) -> None:
        self.engine.cache.evict(symbol)

    @rule()
    def restarts(self) -> None:
        self.engine = engine_of(self.spec, slots=2)

    def check(self, symbols: list[str]) -> None:
        asked = [
            request(
                symbol,
                self.series[symbol],
                self.rows[symbol],
                self.spec,
                revision=self.revisions[symbol],
            )
            for symbol in symbols
        ]
        replies = self.engine.forecast(asked, no_clock)
        for one, reply in zip(asked, replies, strict=True):
            ours = paths_of(reply, self.spec)
            theirs, std = recomputed(self.pair, one, self.spec, reply.context_start)
            assert close_to(ours, theirs, std)
            (cold,) = engine_of(self.spec).forecast([one], no_clock)
            assert cold.paths == reply.paths


class EpochInterleavings(Interleavings):
    """The same with anchors that are kept for four bars."""

    anchor_every = 4


class UpstreamInterleavings(Interleavings):
    """The same with upstream's rule: the closed bar is in its own anchor."""

    anchor_every = 0


limits = settings(
    max_examples=5,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestInterleavings = pytest.mark.timeout(120)(Interleavings.TestCase)
TestEpochInterleavings = pytest.mark.timeout(120)(EpochInterleavings.TestCase)
TestUpstreamInterleavings = pytest.mark.timeout(120)(UpstreamInterleavings.TestCase)
for case in (TestInterleavings, TestEpochInterleavings, TestUpstreamInterleavings):
    case.settings = limits
del case  # It would be collected as a test of its own.


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("rotary", ["upstream", "trained", "none"])
@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_sampled_tokens_are_the_plain_samplers(rotary: str, top_k: int) -> None:
    wanted = spec(fine_head_rotary=rotary, top_k=top_k, horizon=8, temperature=0.7)
    pair = tiny_pair()
    asked = request("AAA", bars(80), 60, wanted)
    (reply,) = engine_of(wanted).forecast([asked], no_clock)
    theirs, std = recomputed(pair, asked, wanted, reply.context_start)
    assert close_to(paths_of(reply, wanted), theirs, std)


@pytest.mark.usefixtures("steps")
def test_grouped_queries() -> None:
    wanted = spec()
    pair = tiny_pair(n_kv_heads=2)
    asked = request("AAA", bars(80), 60, wanted)
    (reply,) = Engine(*tiny_pair(n_kv_heads=2), wanted).forecast([asked], no_clock)
    theirs, std = recomputed(pair, asked, wanted, reply.context_start)
    assert close_to(paths_of(reply, wanted), theirs, std)


def test_prepared_prefix_is_a_hit_of_one_bar() -> None:
    wanted = spec()
    engine = engine_of(wanted)
    series = bars(80)
    (first,) = engine.forecast([request("AAA", series, 60, wanted)], no_clock)
    while engine.step_idle():
        pass
    (second,) = engine.forecast([request("AAA", series, 61, wanted)], no_clock)
    assert (first.cache, second.cache) == ("miss", "hit")


@pytest.fixture(scope="module")
def small_pair() -> tuple[Kronos, KronosTokenizer]:
    torch.manual_seed(0)
    return Kronos(**SMALL.model).eval(), KronosTokenizer(**SMALL.tokenizer).eval()


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("count", [1, 2])
def test_same_bits_whatever_the_batch_mates_at_the_small_shape(
    small_pair: tuple[Kronos, KronosTokenizer], count: int
) -> None:
    wanted = spec(lookback=70, horizon=3, paths=5)
    series = {s: bars(120, i) for i, s in enumerate(SYMBOLS)}
    asked = {s: request(s, series[s], 100, wanted) for s in SYMBOLS}
    with threads(count):
        engine = Engine(*small_pair, wanted, revision="small")
        alone = engine.forecast([asked["BBB"]], no_clock)[0]
        engine.cache.evict("BBB")
        together = engine.forecast([asked[s] for s in SYMBOLS], no_clock)[1]
    assert together.cache == "miss"
    assert alone.paths == together.paths


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        pytest.param(32, 4, id="every head as the kernels want it"),
        pytest.param(80, 4, id="the fine one alone"),
        pytest.param(40, 5, id="all but the fine one"),
        pytest.param(40, 2, id="none"),
    ],
)
def test_bfloat16_stays_near_float32(width: int, heads: int) -> None:
    """The same uniforms: the first bar of most paths is that of float32, whose tokens a rounded
    logit flips now and then."""
    first = []
    with multiplying_in_bfloat16():
        for dtype in ("float32", "bfloat16"):
            wanted = spec(dtype=dtype, paths=64, horizon=3)
            engine = Engine(*tiny_pair(d_model=width, n_heads=heads), wanted)
            (reply,) = engine.forecast([request("AAA", bars(80), 60, wanted)], no_clock)
            first.append(paths_of(reply, wanted)[:, 0])
    assert not np.array_equal(*first)
    assert np.isclose(*first, rtol=1e-5).all(axis=-1).mean() >= 0.9


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "bfloat16, multiplied in it", "bfloat16, in tiles"]
)
@pytest.mark.parametrize("ff_dim", [48, 40], ids=["ff48", "no_gate_of_ours_in_bfloat16"])
def test_logits_are_the_plain_models(dtype: str, ff_dim: int) -> None:
    """Of the whole context run at once: float32 within 1e-4, bfloat16 within a KL of 1e-3."""
    dtype, _, how = dtype.partition(", ")
    with multiplying_in_bfloat16(tiles=how == "in tiles") if how else nullcontext():
        check_logits(dtype, ff_dim)


def check_logits(dtype: str, ff_dim: int) -> None:
    wanted = spec(dtype=dtype)
    model, tokenizer = tiny_pair(ff_dim=ff_dim)
    asked = [request(s, bars(80, i), 60, wanted) for i, s in enumerate(SYMBOLS)]
    ours = Engine(*tiny_pair(ff_dim=ff_dim), wanted).coarse_logits(asked)
    for one, logits in zip(asked, ours, strict=True):
        values = np.frombuffer(one.values, "<f8").reshape(-1, 6)
        stamps = np.frombuffer(one.stamps, "<i8").reshape(-1, 5)[: len(values)]
        scale = scale_of(values[: wanted.lookback])
        s1, s2 = tokenizer.encode(torch.from_numpy(scale.normalise(values))[None])
        with torch.no_grad():
            hidden = model.hidden(s1, s2, torch.from_numpy(stamps.copy())[None])
            plain = model.coarse_logits(hidden[0, -1])
        if dtype == "float32":
            torch.testing.assert_close(logits, plain, atol=1e-4, rtol=0)
        p, q = plain.log_softmax(-1), logits.log_softmax(-1)
        assert float((p.exp() * (p - q)).sum()) < 1e-3


def test_join_moves_every_path_by_the_reconstruction_error() -> None:
    asked = request("AAA", bars(80), 60, spec())
    (of_plain,) = engine_of(spec()).forecast([asked], no_clock)
    plain = paths_of(of_plain, spec())
    joined_spec = spec(join="last_close")
    (of_joined,) = engine_of(joined_spec).forecast([asked], no_clock)
    joined = paths_of(of_joined, joined_spec)
    assert of_plain.miss == of_joined.miss != 0
    assert np.array_equal(joined[..., :4], plain[..., :4] + of_plain.miss)
    assert np.array_equal(joined[..., 4:], plain[..., 4:])


def test_refusals_name_the_reason() -> None:
    series = bars(80)
    flat = series.copy()
    flat[:, :4] = 100.0
    tiny = series * 1e-6
    bad = series.copy()
    bad[50, 1] = np.nan
    reasons = [
        engine_of(spec()).forecast([request("AAA", values, 60, spec())], no_clock)[0].refused
        for values in (flat, tiny, bad)
    ]
    assert reasons == ["flat_anchor", "tiny_prices", "non_finite_values"]


def test_tiny_prices_scaled_are_the_same_forecast_as_large_ones() -> None:
    wanted = spec(tiny_prices="scale")
    series = bars(80)
    series[:, 4:] = 0.0
    small = series.copy()
    small[:, :4] *= 1e-6
    large = paths_of(
        engine_of(wanted).forecast([request("A", series, 60, wanted)], no_clock)[0], wanted
    )
    scaled = paths_of(
        engine_of(wanted).forecast([request("A", small, 60, wanted)], no_clock)[0], wanted
    )
    np.testing.assert_allclose(scaled[..., :4] * 1e6, large[..., :4], rtol=2e-4)


def test_incomplete_lookback() -> None:
    asked = request("AAA", bars(80), 60, spec(lookback=20))
    (reply,) = engine_of(spec()).forecast([asked], no_clock)
    assert reply.refused == "lookback_incomplete"


def test_training_mode_is_refused() -> None:
    model, tokenizer = tiny_pair()
    with pytest.raises(EngineError, match="training mode"):
        Engine(model.train(), tokenizer, spec())


def test_a_cache_that_cannot_be_allocated_is_named() -> None:
    with pytest.raises(
        EngineError, match=r"model.cache_mib: 1099511627776 MiB cannot be allocated"
    ):
        Engine(*tiny_pair(), spec(), cache_bytes=2**60)


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_a_device_that_cannot_be_used_is_refused(device: str) -> None:
    with pytest.raises(EngineError, match=f"model.device: expected a device .* got '{device}'"):
        Engine(*tiny_pair(), spec(), device=device)


def test_horizon_past_the_context_is_refused() -> None:
    with pytest.raises(EngineError, match="max_context 128"):
        Engine(*tiny_pair(), spec(lookback=120, horizon=20))


def test_another_closing_bar_without_epochs_is_another_scale() -> None:
    wanted = spec(anchor_every=0)
    before, after = bars(80), bars(80)
    after[60, :4] *= 1.3
    engine = engine_of(wanted)
    engine.forecast([request("AAA", before, 60, wanted)], no_clock)
    (warm,) = engine.forecast([request("AAA", after, 60, wanted)], no_clock)
    (cold,) = engine_of(wanted).forecast([request("AAA", after, 60, wanted)], no_clock)
    assert warm.cache == "miss"
    assert warm.paths == cold.paths


def test_more_symbols_than_slots_cost_those_beyond_them_alone() -> None:
    engine = engine_of(spec(), slots=2)
    series = bars(80)
    for row in (60, 61, 62, 63):
        replies = engine.forecast([request(s, series, row, spec()) for s in SYMBOLS], no_clock)
        while engine.step_idle():
            pass
        assert row == 60 or sorted(reply.cache for reply in replies) == ["hit", "hit", "miss"]


def test_cache_is_bounded_and_counts_its_memory() -> None:
    model, tokenizer = tiny_pair()
    one = Engine(model, tokenizer, spec()).cache.slot_bytes
    engine = Engine(model, tokenizer, spec(), cache_bytes=2 * one)
    series = bars(80)
    engine.forecast([request(s, series, 60, spec()) for s in SYMBOLS], no_clock)
    assert len(engine.cache) == 2
    length, kinds = 25, 2
    expected = 4 * kinds * length * (2 * 32 + 32 + 2 * 24 + 2 * 24)
    assert one == expected
