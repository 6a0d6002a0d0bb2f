"""KronosPredictor: data frames in, data frames out, as users of upstream Kronos call it."""

import logging
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from .catalog import check_pair
from .devices import device_of
from .features import CLIP, Scale, scale_of
from .frames import COLUMNS, time_features, values_of
from .generate import generate
from .kronos import Kronos
from .philox import uniforms
from .sampling import Sampling
from .tokenizer import KronosTokenizer

log = logging.getLogger(__name__)


class KronosPredictor:
    """Forecasts K-lines of pandas frames.

    A frame has the columns open, high, low, close and optionally volume and amount, one row a
    bar. Timestamps are a Series or DatetimeIndex of the bars' open times. Context and horizon
    past `max_context` roll the window, with one warning; the horizon alone must fit.

    Unlike upstream's, paths follow from `seed` alone: the same call gives the same paths, and
    series i of a batch draws from the seed plus i. Where `top_k` and `top_p` are both given both
    hold. `predict` has upstream's default `top_p` of 0.9; all paths and quantiles are of the whole
    distribution unless it is given.
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        device: str | torch.device | None = None,
        max_context: int | None = None,
        clip: float = CLIP,
    ) -> None:
        """`max_context`: bars, at most the model's own, which is the default. `clip` is accepted
        for compatibility: models are trained with 5. ModelError where the two do not fit."""
        check_pair(model, tokenizer)
        if clip != CLIP:
            raise InputError(f"clip: expected {CLIP:g}, got {clip!r}")
        self.device = device_of(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device)
        self.tokenizer = tokenizer.to(self.device)
        own = model.max_context
        self.max_context = own if max_context is None else _integer("max_context", max_context, 1)
        if self.max_context > own:
            log.warning("max_context %d is more than the model's own, %d", self.max_context, own)
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
        levels = _levels(quantile_levels)
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
        lists = {"df_list": frames, "x_timestamp_list": x_stamps, "y_timestamp_list": y_stamps}
        lengths = [_length(given, name) for name, given in lists.items()]
        if len(set(lengths)) != 1:
            raise InputError(
                f"{', '.join(lists)}: expected equal lengths, got {str(lengths)[1:-1]}"
            )
        pred_len = _integer("pred_len", pred_len, least=1)
        paths = _integer("sample_count", paths, least=1)
        # The seed plus i must stay within 64 bits.
        seed = _integer("seed", seed, most=2**64 - max(1, len(frames)))
        if pred_len > self.max_context:
            raise InputError(
                f"pred_len: expected at most {self.max_context} (max_context), got {pred_len}"
            )
        series = [
            _Series(i, frame, x, y, pred_len)
            for i, (frame, x, y) in enumerate(zip(frames, x_stamps, y_stamps, strict=True))
        ]
        self._warn_when_rolling(max((one.length for one in series), default=0) + pred_len)
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
        values = values_of(frame, where)
        if len(values) < 2:
            raise InputError(f"{where}: expected at least 2 bars, got {len(values)}")
        known, ahead = (
            _length(stamps, f"{where}: {name}")
            for name, stamps in (("x_timestamp", x_stamps), ("y_timestamp", y_stamps))
        )
        if known != len(values):
            raise InputError(
                f"{where}: x_timestamp has {known} entries, the frame {len(values)} rows"
            )
        if ahead != pred_len:
            raise InputError(f"{where}: y_timestamp has {ahead} entries, pred_len is {pred_len}")
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
    except (TypeError, ValueError) as error:
        raise InputError(f"T, top_p: expected numbers, got {temperature!r}, {top_p!r}") from error


def _levels(given: Sequence[float]) -> list[float]:
    try:
        levels = [float(level) for level in given]
    except (TypeError, ValueError) as error:
        raise InputError(f"quantile_levels: expected a list of numbers, got {given!r}") from error
    if not levels or any(not 0 <= level <= 1 for level in levels):
        raise InputError(f"quantile_levels: expected numbers in [0, 1], got {levels}")
    return levels


def _length(given: Any, name: str) -> int:
    try:
        return len(given)
    except TypeError as error:
        raise InputError(f"{name}: expected a sequence, got {type(given).__name__}") from error


def _integer(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A Python integer of `least` to `most`, of a Python or numpy one; 5.0 is none, nor is True."""
    allowed = f"of {least} or more" if most is None else f"of {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name}: expected an integer {allowed}, got {value!r}") from error
    wrong = number < least or (most is not None and number > most)
    if wrong or isinstance(value, bool):
        raise InputError(f"{name}: expected an integer {allowed}, got {value!r}")
    return number
