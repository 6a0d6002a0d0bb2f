"""KronosPredictor: frames in, frames out; what it refuses and what it warns about."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kronos_stream.errors import InputError, ModelError
from kronos_stream.model.features import scale_of
from kronos_stream.model.frames import COLUMNS, PRICES, time_features
from kronos_stream.model.generate import generate
from kronos_stream.model.philox import uniforms
from kronos_stream.model.sampling import Sampling

from ..engine.requests import tiny_pair
from .predicting import STEPS, frame, predictor, times


def predicted(df: pd.DataFrame, **options: Any) -> pd.DataFrame:
    return predictor().predict(df, *times(len(df)), STEPS, **options)


def test_predict_is_the_mean_of_its_paths() -> None:
    df, when = frame(), times()
    ours = predictor()
    options = {"T": 0.8, "top_k": 30, "top_p": 0.9, "sample_count": 6, "seed": 11}
    mean = ours.predict(df, *when, STEPS, **options)
    paths = ours.predict_paths(df, *when, STEPS, **options)
    assert list(mean.columns) == COLUMNS
    assert mean.index.equals(when[1])
    assert paths.shape == (6, STEPS, 6)
    assert paths.dtype == np.float64
    assert (mean.to_numpy() == paths.mean(0)).all()
    assert len(np.unique(paths[:, -1, 3])) > 1


def test_paths_are_those_of_the_plain_rollout() -> None:
    df, (known, ahead) = frame(), times()
    model, tokenizer = tiny_pair()
    scale = scale_of(df.to_numpy())
    stamps = time_features(known.append(ahead), "stamps")
    z = generate(
        model,
        tokenizer,
        torch.from_numpy(scale.normalise(df.to_numpy()))[None],
        torch.from_numpy(stamps)[None],
        torch.from_numpy(uniforms([3], 4, STEPS)),
        sampling=Sampling(top_p=0.9),
        max_context=128,
    )
    ours = predictor().predict_paths(df, known, ahead, STEPS, top_p=0.9, sample_count=4, seed=3)
    assert (ours == scale.restore(z[0].numpy())).all()


def test_seeds() -> None:
    df = frame()
    assert predicted(df, seed=1).equals(predicted(df, seed=1))
    assert not predicted(df, seed=1).equals(predicted(df, seed=2))
    assert predicted(df, top_k=1, seed=1).equals(predicted(df, top_k=1, seed=2))


def test_a_batch_of_mixed_lengths_is_its_series_one_by_one() -> None:
    """Series i draws from the seed plus i, whatever the lengths beside it."""
    lengths = [20, 31, 20, 2]
    frames = [frame(n, seed) for seed, n in enumerate(lengths)]
    when = [times(n) for n in lengths]
    ours = predictor()
    known, ahead = [x for x, _ in when], [y for _, y in when]
    batch = ours.predict_batch(frames, known, ahead, STEPS, sample_count=3, seed=5)
    assert [list(one.index) for one in batch] == [list(y) for y in ahead]
    for i, one in enumerate(batch):
        alone = ours.predict(frames[i], known[i], ahead[i], STEPS, sample_count=3, seed=5 + i)
        np.testing.assert_allclose(one.to_numpy(), alone.to_numpy(), rtol=1e-5)


def test_an_empty_batch_is_empty() -> None:
    assert predictor().predict_batch([], [], [], STEPS) == []


def test_quantiles_are_those_of_the_paths() -> None:
    df, when = frame(), times()
    ours = predictor()
    levels = (0.05, 0.5, 0.75)
    table = ours.predict_quantiles(df, *when, STEPS, sample_count=9, quantile_levels=levels, seed=2)
    paths = ours.predict_paths(df, *when, STEPS, sample_count=9, seed=2)
    assert table.shape == (STEPS, 18)
    assert table.index.equals(when[1])
    assert table.columns.names == ["channel", "level"]
    for channel, name in enumerate(COLUMNS):
        for level in levels:
            expected = np.quantile(paths[:, :, channel], level, axis=0)
            np.testing.assert_allclose(table[name, level], expected, rtol=1e-12)


@pytest.mark.parametrize("levels", [(), (-0.1,), (0.5, 1.1), (float("nan"),)])
def test_levels_outside_of_0_to_1_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="quantile_levels: expected numbers in"):
        predictor().predict_quantiles(frame(), *times(), STEPS, quantile_levels=levels)


def test_timestamps_may_be_series_of_any_index() -> None:
    df, (known, ahead) = frame(), times()
    as_series = predictor().predict(
        df.set_index(known),
        pd.Series(known, index=range(500, 524)),
        pd.Series(ahead, index=range(9, 9 + STEPS)),
        STEPS,
    )
    assert (as_series.to_numpy() == predicted(df).to_numpy()).all()
    assert list(as_series.index) == list(ahead)


def test_time_features_are_read_as_written() -> None:
    stamps = pd.DatetimeIndex(["2024-02-29 23:55", "2024-03-04 00:00"])
    expected = [[55, 23, 3, 29, 2], [0, 0, 0, 4, 3]]
    assert time_features(stamps, "x").tolist() == expected
    assert time_features(stamps.tz_localize("Asia/Shanghai"), "x").tolist() == expected


def test_the_order_and_number_of_columns_do_not_matter() -> None:
    df = frame()
    mixed = df[COLUMNS[::-1]].assign(note="x")
    assert predicted(mixed).equals(predicted(df))


def test_a_missing_amount_is_volume_times_the_mean_price() -> None:
    df = frame()
    full = df.assign(amount=df["volume"] * df[PRICES].mean(axis=1))
    ours, expected = predicted(df.drop(columns="amount")), predicted(full)
    np.testing.assert_allclose(ours.to_numpy(), expected.to_numpy(), rtol=1e-9)


def test_without_volume_both_volume_and_amount_are_0() -> None:
    df = frame()
    expected = predicted(df.assign(volume=0.0, amount=0.0))
    assert predicted(df[PRICES]).equals(expected)
    assert predicted(df.drop(columns="volume")).equals(expected)


def test_the_frame_given_is_left_as_it_was() -> None:
    df = frame()[PRICES]
    before = df.copy()
    predicted(df)
    pd.testing.assert_frame_equal(df, before)


def at(row: int, column: str, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(df: pd.DataFrame) -> pd.DataFrame:
        df.loc[row, column] = value
        return df

    return change


def twice(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda df: pd.concat([df, df[[column]]], axis=1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (at(7, "close", np.nan), "close of row 7 is nan"),
        (at(3, "volume", np.inf), "volume of row 3 is inf"),
        (at(0, "amount", np.nan), "amount of row 0 is nan"),
        (lambda df: df.drop(columns=["high", "low"]), r"missing columns \['high', 'low'\]"),
        (lambda df: df.assign(open="x"), "expected numbers in"),
        (lambda df: df.assign(open=pd.Series([10**400] * 24)), "expected numbers in"),
        (lambda df: df.assign(high=times()[0]), "high: expected numbers, got datetime64"),
        (lambda df: df.assign(low=times()[0] - times()[0][0]), "low: expected numbers, got timed"),
        (lambda df: df.assign(volume=times()[0].astype("category")), "volume: expected numbers"),
        (twice("close"), "close: expected one column, got 2"),
        (twice("amount"), "amount: expected one column, got 2"),
        (lambda df: pd.concat({"BTC": df}, axis=1), "expected columns of one level, got 2"),
        (lambda df: df.to_numpy(), "expected a pandas DataFrame, got ndarray"),
    ],
    ids=[
        "NaN",
        "infinite",
        "NaN amount",
        "missing columns",
        "text",
        "past a double",
        "datetimes",
        "durations",
        "categories of datetimes",
        "a price twice",
        "amount twice",
        "two levels",
        "not a frame",
    ],
)
def test_frames_that_cannot_be_used(change: Callable[[pd.DataFrame], Any], expected: str) -> None:
    when = times()
    with pytest.raises(InputError, match=f"series 1: .*{expected}"):
        predictor().predict_batch([frame(), change(frame())], [when[0]] * 2, [when[1]] * 2, STEPS)


@pytest.mark.parametrize("n", [0, 1])
def test_series_too_short_to_normalise(n: int) -> None:
    with pytest.raises(InputError, match=f"expected at least 2 bars, got {n}"):
        predicted(frame(24).iloc[:n])


@pytest.mark.parametrize(
    ("known", "ahead", "expected"),
    [
        (23, STEPS, "x_timestamp has 23 entries, the frame 24 rows"),
        (24, STEPS - 1, "y_timestamp has 3 entries, pred_len is 4"),
        (24, STEPS + 1, "y_timestamp has 5 entries, pred_len is 4"),
    ],
)
def test_timestamps_of_another_length(known: int, ahead: int, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        predictor().predict(frame(), times(known)[0], times(24, ahead)[1], STEPS)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        (pd.Series([pd.NaT] * 24), "holds a missing timestamp"),
        (pd.Series(["noon"] * 24), "expected timestamps"),
    ],
    ids=["NaT", "text"],
)
def test_timestamps_that_are_none(stamps: "pd.Series[Any]", expected: str) -> None:
    with pytest.raises(InputError, match=f"series 0: x_timestamp: {expected}"):
        predictor().predict(frame(), stamps, times()[1], STEPS)


MS = times()[0].as_unit("ms").asi8


@pytest.mark.parametrize(
    ("stamps", "kind"),
    [
        (pd.Series(MS), "int64"),
        (pd.Index(MS), "int64"),
        (MS, "int64"),
        (list(MS), "int64"),
        (pd.Series(MS.astype(float)), "float64"),
        (pd.Series(MS, dtype="Int64"), "Int64"),
        (pd.Series(MS).astype("category"), "int64"),
        (pd.Series([*times(23)[0], int(MS[-1])], dtype=object), "int"),
    ],
    ids=["series", "index", "array", "list", "floats", "Int64", "category", "one among datetimes"],
)
def test_numbers_are_no_timestamps(stamps: Any, kind: str) -> None:
    """They would be read as nanoseconds, and every bar as one of January 1970."""
    told = f"expected timestamps, got {kind}; milliseconds are pd.to_datetime"
    df, (known, ahead) = frame(), times()
    with pytest.raises(InputError, match=f"series 0: x_timestamp: {told}"):
        predictor().predict(df, stamps, ahead, STEPS)
    with pytest.raises(InputError, match=f"series 0: y_timestamp: {told}"):
        predictor().predict_quantiles(df, known, stamps, 24)


@pytest.mark.parametrize(
    "same",
    [
        lambda index: pd.Series(index.astype(str)),
        lambda index: index.tz_localize("Asia/Shanghai"),
        lambda index: pd.Series(list(index), dtype=object),
        lambda index: pd.Series(index).astype("category"),
        lambda index: index.to_numpy(),
        lambda index: pd.to_datetime(index.as_unit("ms").asi8, unit="ms"),
    ],
    ids=["text", "zone", "objects", "category", "array", "milliseconds"],
)
def test_timestamps_of_other_kinds(same: Callable[[pd.DatetimeIndex], Any]) -> None:
    df, (known, ahead) = frame(), times()
    ours = predictor().predict(df, same(known), same(ahead), STEPS)
    assert (ours.to_numpy() == predicted(df).to_numpy()).all()


def test_lists_of_unequal_lengths() -> None:
    known, ahead = times()
    with pytest.raises(InputError, match="expected equal lengths, got 2, 1, 1"):
        predictor().predict_batch([frame(), frame()], [known], [ahead], STEPS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pred_len": 0}, "pred_len: expected an integer of 1 or more, got 0"),
        ({"pred_len": 5.0}, "pred_len: expected an integer of 1 or more, got 5.0"),
        ({"pred_len": 129}, r"pred_len: expected at most 128 \(max_context\), got 129"),
        ({"sample_count": 0}, "sample_count: expected an integer of 1 or more, got 0"),
        ({"pred_len": True}, "pred_len: expected an integer of 1 or more, got True"),
        ({"T": np.ones(2)}, "T, top_p: expected numbers"),
        ({"T": 1e-7}, "temperature: expected a number of 1e-06 or more, got 1e-07"),
        ({"sample_count": 2.5}, "sample_count: expected an integer of 1 or more, got 2.5"),
        ({"T": 0.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2.5}, "top_k: expected an integer of 0 or more, got 2.5"),
        ({"T": None}, "T, top_p: expected numbers, got None, 0.9"),
        ({"seed": -1}, f"seed: expected an integer of 0 to {2**64 - 1}, got -1"),
        ({"seed": None}, f"seed: expected an integer of 0 to {2**64 - 1}, got None"),
        ({"seed": 2**64}, f"seed: expected an integer of 0 to {2**64 - 1}, got {2**64}"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        predictor().predict(frame(), *times(), **({"pred_len": STEPS} | options))


def test_integers_may_be_numpys() -> None:
    options = {"top_k": 9, "sample_count": 3, "seed": 7}
    ours = predictor().predict(
        frame(), *times(), np.int64(STEPS), **{name: np.uint8(n) for name, n in options.items()}
    )
    assert ours.equals(predicted(frame(), **options))


def test_seeds_of_a_batch_stay_within_64_bits() -> None:
    known, ahead = times()
    with pytest.raises(InputError, match=f"seed: expected an integer of 0 to {2**64 - 2}, got"):
        predictor().predict_batch([frame()] * 2, [known] * 2, [ahead] * 2, STEPS, seed=2**64 - 1)


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_training_mode_is_refused(part: str) -> None:
    ours = predictor()
    getattr(ours, part).train()
    with pytest.raises(ModelError, match="training mode"):
        ours.predict(frame(), *times(), STEPS)


def test_a_context_must_hold_the_horizon() -> None:
    assert predictor(max_context=STEPS).predict(frame(), *times(), STEPS).shape == (STEPS, 6)
    with pytest.raises(InputError, match=r"pred_len: expected at most 1 \(max_context\), got 4"):
        predictor(max_context=1).predict(frame(), *times(), STEPS)


def test_rolling_past_the_context_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    ours = predictor(max_context=24 + STEPS)
    with caplog.at_level(logging.WARNING):
        ours.predict(frame(), *times(), STEPS)
        assert not caplog.records
        rolled = ours.predict(frame(25), *times(25), STEPS)
        assert len(caplog.records) == 1
        assert "need 29 bars, max_context is 28" in caplog.text
        ours.predict(frame(40), *times(40), STEPS)
        assert len(caplog.records) == 1
    assert np.isfinite(rolled.to_numpy()).all()


def test_a_window_that_rolls_forgets_its_oldest_bars() -> None:
    """At each step the model sees the last `max_context` tokens alone."""
    df, (known, ahead) = frame(30), times(30)
    seen: list[int] = []
    ours = predictor(max_context=16)
    whole = ours.model.hidden
    ours.model.hidden = lambda s1, *rest: (seen.append(s1.shape[1]), whole(s1, *rest))[1]
    ours.predict(df, known, ahead, STEPS)
    assert seen == [16] * STEPS
