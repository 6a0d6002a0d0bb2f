"""The fold in columns: many records at once, where nothing closes between them.

`PartitionFold.apply` is the rule, record by record. This gives the same bars, late and rejected
records, counters and positions, several times as fast: a batch is cut into runs of plain ticks
that no close interrupts, a run is sorted by symbol and interval, and each group is summed up and
merged into its bar. Whatever is not plain goes through `apply`.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..wire.foreign import is_symbol
from ..wire.topics import Record
from .builder import BarBuilder
from .columns import Columns, read_columns
from .fold import PartitionFold
from .outputs import LateOut, Output
from .partials import MAX_ROWS, partials
from .symbols import SymbolState

Ints = NDArray[np.int64]

LEAST_RUN: Final = 48
"""Rows below which columns cost more than they save."""
_MOST_NUMBERS: Final = 100_000


class _Numbers(dict[str, int]):
    """Numbers of the symbols whose ticks are plain; -1 for any other name."""

    def __init__(self, fold: PartitionFold) -> None:
        super().__init__()
        self._fold = fold
        self._own_scales = fold.config.bars.symbol_scales
        self.states: list[SymbolState | None] = []
        """By number; None: the symbol is not listed."""

    def __missing__(self, name: str) -> int:
        fold = self._fold
        plain = is_symbol(name) and fold.is_home(name) and name not in self._own_scales
        if not plain or len(self) == _MOST_NUMBERS:
            return -1
        self[name] = len(self.states)
        self.states.append(fold.symbol(name) if fold.lists(name) else None)
        return self[name]


class BatchFold:
    """Folds batches of records into a partition's fold; runs below `least_run` rows as `apply`
    does."""

    def __init__(self, fold: PartitionFold, *, least_run: int = LEAST_RUN) -> None:
        self._fold = fold
        self._least_run = least_run
        self._interval_ms = fold.config.interval_ms
        self._numbers = _Numbers(fold)

    def apply(self, records: Sequence[Record]) -> Iterator[tuple[Record, list[Output]]]:
        """What `PartitionFold.apply` would give for consecutive records, where it gives something.

        Between two results the fold may be ahead of the record that the first came from: its
        position counts once the batch is exhausted.
        """
        assert len(records) <= MAX_ROWS
        fold, bars = self._fold, self._fold.config.bars
        columns = None
        if len(records) >= self._least_run:
            columns = read_columns(
                records, self._numbers, digits=bars.scale_digits, max_ahead_ms=bars.max_ahead_ms
            )
        start = 0
        while start < len(records):
            end = len(records) if columns is None else self._run_end(columns, start)
            if columns is not None and end - start >= self._least_run:
                for row, late in self._add(records, columns, start, end):
                    yield records[row], [late]
            else:
                end = max(end, start + 1)
                for record in records[start:end]:
                    outputs = fold.apply(
                        record.offset, record.timestamp, record.value, record.headers
                    )
                    if outputs:
                        yield record, outputs
            start = end

    def _run_end(self, columns: Columns, start: int) -> int:
        """The first row from `start` on that is not plain or closes a bar."""
        if self._fold.watermark is None:
            return start
        closing = int(columns.reached.searchsorted(self._fold.closes_at))
        place = columns.others.searchsorted(start)
        other: list[int] = columns.others[place : place + 1].tolist()
        return min([closing, *other])

    def _add(
        self, records: Sequence[Record], columns: Columns, start: int, end: int
    ) -> Iterator[tuple[int, LateOut]]:
        """A run; yields the late rows."""
        fold, states = self._fold, self._numbers.states
        time, number = columns.time[start:end], columns.symbol[start:end]
        bucket = (time - fold.next_open) // self._interval_ms
        listed = np.array([state is not None for state in states])[number]
        late = listed & (bucket < 0)
        fold.counters["unlisted"] += int((~listed).sum())
        fold.counters["late"] += int(late.sum())
        rows = np.flatnonzero(listed & (bucket >= 0))
        if len(rows):
            self._group(records, columns, start + rows, bucket[rows])
        fold.passed(records[end - 1].offset, int(columns.reached[end - 1]))
        for row in np.flatnonzero(late).tolist():
            state = states[number[row]]
            assert state is not None
            yield start + row, LateOut(state.name)

    def _group(self, records: Sequence[Record], columns: Columns, rows: Ints, bucket: Ints) -> None:
        """Rows of listed symbols that are not late, into their bars."""
        fold, states = self._fold, self._numbers.states
        width = int(bucket.max()) + 1
        keys = columns.symbol[rows] * width + bucket
        # numpy sorts 16 bits by radix, stable, several times as fast.
        order = np.argsort(keys.astype(np.int16) if keys.max() < 2**15 else keys, kind="stable")
        rows, keys = rows[order], keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        fresh = np.ones(len(rows), bool)
        builders: list[BarBuilder] = []
        for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            state = states[int(keys[begin]) // width]
            assert state is not None
            open_time = fold.next_open + int(keys[begin]) % width * self._interval_ms
            if not state.exists(open_time):
                fold.counters["outside_session"] += end - begin
                fresh[begin:end] = False
                continue
            builder = state.open.get(open_time)
            if builder is None:
                row = int(rows[begin])
                before = int(columns.reached[row - 1]) if row else 0
                builder = BarBuilder(records[row].offset, max(fold.watermark or 0, before))
                state.open[open_time] = builder
            replayed = _replayed(builder, columns, rows[begin:end])
            fold.counters["duplicate"] += int(replayed.sum())
            fresh[begin:end] = ~replayed
            if not replayed.all():
                builders.append(builder)
        rows = rows[fresh]
        if not len(rows):
            return
        fold.counters["accepted"] += len(rows)
        starts = np.flatnonzero(np.diff(keys[fresh], prepend=-1))
        key = columns.trade_id[rows]
        if not columns.has_id[rows].all():
            offsets = np.array([records[row].offset for row in rows.tolist()])
            key = np.where(columns.has_id[rows], key, offsets)
        parts = partials(
            columns.price[rows],
            columns.qty[rows],
            columns.time[rows],
            key,
            columns.has_id[rows],
            starts,
        )
        for builder, part in zip(builders, parts, strict=True):
            builder.merge(part)
        self._follow_ids(columns, rows)

    def _follow_ids(self, columns: Columns, rows: Ints) -> None:
        """The accepted rows, which lie together by symbol."""
        numbers = columns.symbol[rows]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for group in np.split(rows, starts[1:]):
            group = np.sort(group[columns.has_id[group]])
            state = self._numbers.states[columns.symbol[group[0]]] if len(group) else None
            if state is not None:
                ids, times = columns.trade_id[group], columns.time[group]
                resets = state.follow_ids(ids, times, self._interval_ms)
                self._fold.counters["id_reset"] += resets


def _replayed(builder: BarBuilder, columns: Columns, rows: Ints) -> NDArray[np.bool_]:
    """Which rows' ids the bar knows; then it knows all."""
    with_id = rows[columns.has_id[rows]]
    ids = columns.trade_id[with_id]
    # An id above all before it is new, and whatever equals it comes after it in the log.
    least = -1 if builder.last_id is None else builder.last_id
    before = np.maximum.accumulate(np.append(least, ids))[:-1]
    new = ids > before
    builder.ids.update(ids[new].tolist())
    for place in np.flatnonzero(~new).tolist():
        trade_id = int(ids[place])
        if trade_id not in builder.ids:
            builder.ids.add(trade_id)
            new[place] = True
    replayed = np.zeros(len(rows), bool)
    replayed[columns.has_id[rows]] = ~new
    return replayed
