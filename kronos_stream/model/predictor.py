"""KronosPredictor: data frames in, data frames out, as users of upstream Kronos call it."""

import logging
import operator
from collections.abc import Sequence
from numbers import Number
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from .features import Scale, scale_of
from .generate import generate
from .kronos import Kronos
from .philox import uniforms
from .sampling import Sampling
from .tokenizer import KronosTokenizer

PRICES: Final = ["open", "high", "low", "close"]
COLUMNS: Final = [*PRICES, "volume", "amount"]

log = logging.getLogger(__name__)


class KronosPredictor:
    """Forecasts K-lines of pandas frames.

    A frame has the columns open, high, low, close and optionally volume and amount, one row a
    bar. Timestamps are a Series or DatetimeIndex of the bars' open times. Context and horizon
    past `max_context` roll the window, with one warning; the horizon alone must fit.
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        device: str | torch.device | None = None,
        max_context: int | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device)
        self.tokenizer = tokenizer.to(self.device)
        self.max_context = _integer("max_context", max_context or model.max_context, least=1)
        self._warned = False

    def predict(
        self,
        df: pd.DataFrame,
        x_timestamp: pd.Series | pd.DatetimeIndex,
        y_timestamp: pd.Series | pd.DatetimeIndex,
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
        *,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The mean of `sample_count` paths: `pred_len` rows of six columns, indexed by
        `y_timestamp`. `verbose` is accepted for compatibility."""
        return self.predict_batch(
            [df],
            [x_timestamp],
            [y_timestamp],
            pred_len,
            T,
            top_k,
            top_p,
            sample_count,
            verbose,
            seed=seed,
        )[0]

    def predict_batch(
        self,
        df_list: Sequence[pd.DataFrame],
        x_timestamp_list: Sequence[pd.Series | pd.DatetimeIndex],
        y_timestamp_list: Sequence[pd.Series | pd.DatetimeIndex],
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
        *,
        seed: int = 0,
    ) -> list[pd.DataFrame]:
        """`predict` of several series, whose lengths may differ."""
        all_paths = self._rollouts(
            df_list,
            x_timestamp_list,
            y_timestamp_list,
            pred_len,
            _sampling(T, top_k, top_p),
            sample_count,
            seed,
        )
        return [
            pd.DataFrame(paths.mean(0), columns=COLUMNS, index=stamps)
            for paths, stamps in zip(all_paths, y_timestamp_list, strict=True)
        ]

    def predict_paths(
        self,
        df: pd.DataFrame,
        x_timestamp: pd.Series | pd.DatetimeIndex,
        y_timestamp: pd.Series | pd.DatetimeIndex,
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        sample_count: int = 20,
        *,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """All sampled paths (sample_count, pred_len, 6), channels in the order of COLUMNS."""
        sampling = _sampling(T, top_k, top_p)
        (paths,) = self._rollouts(
            [df], [x_timestamp], [y_timestamp], pred_len, sampling, sample_count, seed
        )
        return paths

    def predict_quantiles(
        self,
        df: pd.DataFrame,
        x_timestamp: pd.Series | pd.DatetimeIndex,
        y_timestamp: pd.Series | pd.DatetimeIndex,
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        sample_count: int = 20,
        quantile_levels: Sequence[float] = (0.1, 0.5, 0.9),
        *,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Quantiles over paths: rows as `y_timestamp`, columns (channel, level)."""
        levels = [float(level) for level in quantile_levels]
        if not levels or any(not 0 <= level <= 1 for level in levels):
            raise InputError(f"quantile_levels: expected numbers in [0, 1], got {levels}")
        paths = self.predict_paths(
            df, x_timestamp, y_timestamp, pred_len, T, top_k, top_p, sample_count, seed=seed
        )
        table = np.quantile(paths, levels, axis=0).transpose(1, 2, 0)
        columns = pd.MultiIndex.from_product([COLUMNS, levels], names=["channel", "level"])
        return pd.DataFrame(table.reshape(pred_len, -1), columns=columns, index=y_timestamp)

    def _rollouts(
        self,
        frames: Sequence[pd.DataFrame],
        x_stamps: Sequence[pd.Series | pd.DatetimeIndex],
        y_stamps: Sequence[pd.Series | pd.DatetimeIndex],
        pred_len: int,
        sampling: Sampling,
        paths: int,
        seed: int,
    ) -> list[NDArray[np.float64]]:
        if self.model.training or self.tokenizer.training:
            raise ModelError(
                "the model is in training mode: dropout would be on; call .eval() on model and "
                "tokenizer first"
            )
        if not len(frames) == len(x_stamps) == len(y_stamps):
            raise InputError(
                f"df_list, x_timestamp_list, y_timestamp_list: expected equal lengths, got "
                f"{len(frames)}, {len(x_stamps)}, {len(y_stamps)}"
            )
        pred_len = _integer("pred_len", pred_len, least=1)
        paths = _integer("sample_count", paths, least=1)
        # Series i draws from the seed plus i, which must stay within 64 bits.
        seed = _integer("seed", seed, most=2**64 - max(1, len(frames)))
        if pred_len > self.max_context:
            raise InputError(
                f"pred_len: expected at most {self.max_context} (max_context), got {pred_len}"
            )
        self._warn_when_rolling(max((len(frame) for frame in frames), default=0) + pred_len)
        series = [
            _Series(i, frame, x, y, pred_len)
            for i, (frame, x, y) in enumerate(zip(frames, x_stamps, y_stamps, strict=True))
        ]
        out: dict[int, NDArray[np.float64]] = {}
        for length in sorted({one.length for one in series}):
            group = [one for one in series if one.length == length]
            u = uniforms([seed + one.index for one in group], paths, pred_len)
            z = generate(
                self.model,
                self.tokenizer,
                torch.from_numpy(np.stack([one.z for one in group])).to(self.device),
                torch.from_numpy(np.stack([one.stamps for one in group])).to(self.device),
                torch.from_numpy(u).to(self.device),
                sampling=sampling,
                max_context=self.max_context,
            )
            for one, sampled in zip(group, z.cpu().numpy(), strict=True):
                out[one.index] = one.scale.restore(sampled)
        return [out[i] for i in range(len(series))]

    def _warn_when_rolling(self, total: int) -> None:
        if total > self.max_context and not self._warned:
            self._warned = True
            log.warning(
                "context and horizon need %d bars, max_context is %d: the window rolls and the "
                "oldest bars are dropped at each step",
                total,
                self.max_context,
            )


class _Series:
    """One checked series: normalised bars (n, 6), stamps (n + pred_len, 5) and the scale back."""

    def __init__(
        self,
        index: int,
        frame: pd.DataFrame,
        x_stamps: pd.Series | pd.DatetimeIndex,
        y_stamps: pd.Series | pd.DatetimeIndex,
        pred_len: int,
    ) -> None:
        where = f"series {index}"
        values = _values(frame, where)
        if len(values) < 2:
            raise InputError(f"{where}: expected at least 2 bars, got {len(values)}")
        if len(x_stamps) != len(values):
            raise InputError(
                f"{where}: x_timestamp has {len(x_stamps)} entries, the frame {len(values)} rows"
            )
        if len(y_stamps) != pred_len:
            raise InputError(
                f"{where}: y_timestamp has {len(y_stamps)} entries, pred_len is {pred_len}"
            )
        self.index = index
        self.length = len(values)
        self.scale: Scale = scale_of(values)
        self.z = self.scale.normalise(values)
        self.stamps = np.concatenate(
            (
                time_features(x_stamps, f"{where}: x_timestamp"),
                time_features(y_stamps, f"{where}: y_timestamp"),
            )
        )


def _sampling(temperature: float, top_k: int, top_p: float) -> Sampling:
    top_k = _integer("top_k", top_k)
    try:
        return Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    except TypeError as error:
        raise InputError(f"T, top_p: expected numbers, got {temperature!r}, {top_p!r}") from error


def _integer(name: str, value: Any, *, least: int = 0, most: int | None = None) -> int:
    """A Python integer of `least` to `most`, of a Python or numpy one; 5.0 is none."""
    allowed = f"of {least} or more" if most is None else f"of {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name}: expected an integer {allowed}, got {value!r}") from error
    if number < least or (most is not None and number > most):
        raise InputError(f"{name}: expected an integer {allowed}, got {value!r}")
    return number


def time_features(stamps: pd.Series | pd.DatetimeIndex, where: str) -> NDArray[np.int64]:
    """Minute, hour, weekday (Monday 0), day, month of each timestamp as written: int64 (n, 5)."""
    try:
        _refuse_numbers(pd.Index(stamps), where)
        index = pd.DatetimeIndex(stamps)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected timestamps: {error}") from error
    if index.hasnans:
        raise InputError(f"{where}: holds a missing timestamp (NaT)")
    parts = (index.minute, index.hour, index.day_of_week, index.day, index.month)
    columns = [np.asarray(part, np.int64) for part in parts]
    return np.stack(columns, axis=-1)


def _refuse_numbers(stamps: pd.Index, where: str) -> None:
    """InputError where pandas would read numbers as nanoseconds."""
    dtype = _of_values(stamps.dtype)
    kind = str(dtype) if pd.api.types.is_numeric_dtype(dtype) else None
    if pd.api.types.is_object_dtype(dtype):
        # A NaN among timestamps is a missing one.
        numbers = (value for value in stamps if isinstance(value, Number) and value == value)
        kind = next((type(number).__name__ for number in numbers), None)
    if kind:
        raise InputError(
            f"{where}: expected timestamps, got {kind}; milliseconds are "
            f"pd.to_datetime(..., unit='ms')"
        )


def _of_values(dtype: Any) -> Any:
    """The dtype of a column's values, which a category has within."""
    return dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype


def _refuse_columns(frame: pd.DataFrame, where: str) -> None:
    """InputError for a column that stands twice or holds times, which would turn into numbers."""
    used = PRICES if "volume" not in frame else [name for name in COLUMNS if name in frame]
    for name in used:
        dtypes = list(frame[[name]].dtypes)
        if len(dtypes) != 1:
            raise InputError(f"{where}: {name}: expected one column, got {len(dtypes)}")
        if _of_values(dtypes[0]).kind in "Mm":
            raise InputError(f"{where}: {name}: expected numbers, got {dtypes[0]}")


def _values(frame: pd.DataFrame, where: str) -> NDArray[np.float64]:
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{where}: expected a pandas DataFrame, got {type(frame).__name__}")
    missing = [name for name in PRICES if name not in frame.columns]
    if missing:
        raise InputError(
            f"{where}: missing columns {missing}; expected {PRICES} and optionally volume, amount"
        )
    _refuse_columns(frame, where)
    try:
        prices = frame[PRICES].to_numpy(np.float64)
        volume = (
            frame["volume"].to_numpy(np.float64) if "volume" in frame else np.zeros(len(prices))
        )
        if "volume" not in frame:
            amount = np.zeros(len(prices))
        elif "amount" in frame:
            amount = frame["amount"].to_numpy(np.float64)
        else:
            amount = volume * prices.mean(1)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: expected numbers in {COLUMNS}: {error}") from error
    values = np.column_stack((prices, volume, amount))
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{where}: {COLUMNS[column]} of row {row} is {values[row, column]}, expected a number"
        )
    return values
