"""Windows: where they lie, how they are normalised, and that the future stays out of them."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kronos_stream.engine.anchors import anchor_of
from kronos_stream.errors import InputError
from kronos_stream.model.features import scale_of
from kronos_stream.training.segments import Bank
from kronos_stream.training.windows import Windows, normalised, split_in_time
from tests.samples import SPEC, STEP_MS
from tests.training.markets import WINDOW, bank_of, frame, sampling, write


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("market")
    holed = frame(300, seed=1, price=7.0).drop(index=[70, 71, 190])
    return bank_of(write(folder / "bars", AAA=frame(300), BBB=holed))


def everywhere(windows: Windows) -> np.ndarray:
    return np.arange(windows.count)


@given(data=st.data())
@hypothesis_settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_window_crosses_a_gap_or_a_symbol(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(20, 70), min_size=1, max_size=6))
    ends = np.cumsum(lengths)
    spans = np.stack((ends - lengths, ends), axis=-1)
    n = int(ends[-1])
    segment = np.repeat(np.arange(len(lengths)), lengths)
    values = np.random.default_rng(0).lognormal(size=(n, 6)).astype(np.float32)
    stamps = np.zeros((n, 5), np.int8)
    n_each = np.arange(n)
    bank = Bank(values, stamps, n_each, n_each, spans, [""] * len(lengths), n_each, n_each)
    windows = Windows(bank, spans, sampling())
    found = windows.located(everywhere(windows))
    assert (segment[found.rows] == segment[found.rows[:, :1]]).all()
    own = np.arange(WINDOW) < found.length[:, None]
    assert (np.diff(found.rows, axis=1)[own[:, 1:]] == 1).all()
    weights = windows.at(
        everywhere(windows), np.full(windows.count, 0.5), np.zeros(windows.count, bool)
    ).weights
    assert not weights[~own].any()
    # Every place where a whole window fits is one, and every short segment is one more.
    assert len({tuple(r) for r in found.rows.tolist()}) == windows.count
    assert windows.count == sum(max(1, length - WINDOW + 1) for length in lengths)


def test_nothing_after_the_split_reaches_before_it(bank: Bank) -> None:
    """Bars after each window's split change: what is before it, and the statistics, do not."""
    windows = Windows(bank, bank.spans, sampling(context_loss_weight=0.3))
    places = everywhere(windows)[::7]
    shares = np.random.default_rng(1).random(len(places))
    none = np.zeros(len(places), bool)
    before = windows.at(places, shares, none)
    rows = windows.located(places).rows
    for i in range(len(places)):
        split = int((before.weights[i] != 1.0).sum())
        assert 12 <= split <= 28
        changed = bank.values.copy()
        changed[rows[i, split] + 1 :] *= 3.0
        other = Windows(bank._replace(values=changed), bank.spans, sampling())
        after = other.at(places[i : i + 1], shares[i : i + 1], none[:1])
        np.testing.assert_array_equal(after.z[0, : split + 1], before.z[i, : split + 1])
        assert (after.z[0, split + 1 :] != before.z[i, split + 1 :]).any()


def test_loss_lies_after_the_split_unless_asked(bank: Bank) -> None:
    place, share, kept = np.array([0]), np.array([0.0]), np.array([False])
    weights = Windows(bank, bank.spans, sampling()).at(place, share, kept).weights[0]
    assert weights.tolist() == [0.0] * 12 + [1.0] * 20
    weighted = Windows(bank, bank.spans, sampling(context_loss_weight=0.25))
    assert weighted.at(place, share, kept).weights[0, :12].tolist() == [0.25] * 12


@pytest.mark.parametrize("price", [100.0, 3e-4])
def test_normalised_as_the_engine_does(price: float) -> None:
    bars = frame(WINDOW, price=price)
    bars["amount"] = bars["volume"] * bars["close"]
    values = bars.drop(columns="open_time").to_numpy()
    z, flat = normalised(values[None], np.array([20]))
    spec = msgspec.structs.replace(SPEC, lookback=20, tiny_prices="scale")
    expected = anchor_of(values[:20], spec).normalise(values)
    np.testing.assert_allclose(z[0], expected, atol=1e-6)
    assert not flat.any()
    if price == 100.0:
        np.testing.assert_allclose(z[0], scale_of(values[:20]).normalise(values), atol=1e-6)


def test_a_window_without_a_scale_counts_nothing(bank: Bank) -> None:
    still = bank.values.copy()
    still[:12, 0] = 100.1
    windows = Windows(bank._replace(values=still), bank.spans, sampling())
    batch = windows.at(np.array([0, 100]), np.zeros(2), np.zeros(2, bool))
    assert np.isfinite(batch.z).all()
    assert not batch.weights[0].any()
    assert batch.weights[1].any()


def test_missing_volume_is_zero_as_when_there_is_none(bank: Bank) -> None:
    windows = Windows(bank, bank.spans, sampling())
    batch = windows.at(np.array([5, 5]), np.array([0.5, 0.5]), np.array([True, False]))
    assert not batch.z[0, :, 4:].any()
    assert batch.z[1, :, 4:].any()
    np.testing.assert_array_equal(batch.z[0, :, :4], batch.z[1, :, :4])
    missing = [
        not z[:, 4:].any()
        for seed in range(40)
        for z in windows.draw(50, np.random.default_rng(seed)).z
    ]
    assert 0.03 < np.mean(missing) < 0.07


def test_a_seed_decides_everything(bank: Bank) -> None:
    windows = Windows(bank, bank.spans, sampling())
    one, same, other = (windows.draw(8, np.random.default_rng(seed)) for seed in (3, 3, 4))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.z != other.z).any()


def test_validation_windows_are_shared_out(bank: Bank) -> None:
    windows = Windows(bank, bank.spans, sampling(volume_dropout=1.0))

    def parts(n: int) -> list[np.ndarray]:
        rngs = [np.random.default_rng(5) for _ in range(n)]
        return [
            np.concatenate([b.z for b in windows.fixed(7, rng, batch=2, part=i, parts=n)])
            for i, rng in enumerate(rngs)
        ]

    (alone,), (even, odd) = parts(1), parts(2)
    np.testing.assert_array_equal(alone[::2], even)
    np.testing.assert_array_equal(alone[1::2], odd)
    assert alone[..., 4:].any(axis=(1, 2)).all()


def test_parts_lie_a_window_and_a_horizon_apart(bank: Bank) -> None:
    parts = split_in_time(bank, sampling(), WINDOW)
    train = np.concatenate([bank.places[a:b] for a, b in parts.train])
    later = np.concatenate([bank.places[a:b] for a, b in parts.validation])
    first, last = bank.open_times.min(), bank.open_times.max()
    assert parts.validation_from == pytest.approx(first + 0.85 * (last - first), abs=STEP_MS)
    assert later.min() - train.max() - 1 == WINDOW + 4
    assert bank.open_times[bank.places == later.min()][0] == parts.validation_from
    assert (bank.open_times[np.isin(bank.places, train)] < parts.train_until).all()
    # One point in time for all symbols.
    assert len(parts.validation) == 2


def test_neither_later_prices_nor_a_window_move_the_split(tmp_path: Path) -> None:
    calm = frame(400)
    wild = calm.copy()
    prices = ["open", "high", "low", "close"]
    wild.loc[335:346, prices] *= np.where(np.arange(12) % 2, 1.0, 1.5)[:, None]
    wild.loc[380:, prices] *= 1.5
    banks = [bank_of(write(tmp_path / n, AAA=f)) for n, f in (("calm", calm), ("wild", wild))]
    # The bar at which validation begins was dropped, and the last ones.
    assert [bank.spans[:, 1].max() for bank in banks] == [400, 369]
    before, after = (split_in_time(bank, sampling(), WINDOW) for bank in banks)
    assert calm["open_time"][335] > before.train_until
    assert after[2:] == before[2:]
    np.testing.assert_array_equal(after.train, before.train)
    # A shorter window keeps the last bars, which the longer one drops.
    narrow = bank_of(tmp_path / "wild", min_segment=16)
    assert narrow.open_times.max() > banks[1].open_times.max()
    shorter = split_in_time(narrow, sampling(window=16, split_low=6, split_high=12), 16)
    assert shorter.validation_from == before.validation_from == calm["open_time"][340]


def test_too_little_for_a_part(bank: Bank) -> None:
    with pytest.raises(InputError, match="no segment of 32 bars or more is left for validation"):
        split_in_time(bank, sampling(validation_share=0.05), WINDOW)
    with pytest.raises(InputError, match="is left for training"):
        split_in_time(bank, sampling(validation_share=0.9), WINDOW)
