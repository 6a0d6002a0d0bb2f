"""structlog events and Prometheus metrics: what an operator watches.

Metrics are module-level, as prometheus_client wants them; every stage counts into the ones of its
own name. Log events are snake_case nouns with fields.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Final, TextIO, cast

import structlog
from prometheus_client import Counter, Gauge, Histogram

from .errors import SettingsError
from .health import Health, HealthServer
from .settings import TelemetrySettings

TICKS: Final = Counter("kronos_ticks_total", "Ticks read", ["outcome"])
"""outcome: accepted, duplicate, late, unlisted, outside_session."""
REJECTED: Final = Counter("kronos_rejected_total", "Messages rejected", ["stage", "reason"])
BARS: Final = Counter("kronos_bars_total", "Bars published", ["kind"])
"""kind: traded, synthetic, history."""
FOLD_EVENTS: Final = Counter("kronos_bars_events_total", "What befell bars or symbols", ["event"])
"""event: dropped_partial, symbol_silent, id_reset."""
LETTERS_SUPPRESSED: Final = Counter(
    "kronos_letters_suppressed_total", "Rejected and late records above the rate: only counted"
)
CONTEXT: Final = Counter("kronos_context_appends_total", "Bars appended to contexts", ["status"])
"""status: applied, duplicate, conflict, hole, history."""
REFILLS: Final = Counter("kronos_context_refills_total", "Contexts rebuilt from the bars topic")
FORECASTS: Final = Counter("kronos_forecasts_total", "Forecasts published")
SKIPPED: Final = Counter("kronos_skipped_total", "Due forecasts that were not made", ["reason"])
CACHE: Final = Counter("kronos_prefix_cache_total", "Prefix cache look-ups", ["result"])
"""result: hit, extend, miss."""
ENGINE_RESTARTS: Final = Counter("kronos_engine_restarts_total", "Engine processes restarted")
HISTORY_CLASHES: Final = Counter(
    "kronos_history_clashes_total", "History bars where a bar made from ticks stands"
)
NUMERIC_VARIANTS: Final = Counter(
    "kronos_numeric_variants_total", "Repeated forecasts whose values differ"
)
PRODUCERS_REPLACED: Final = Counter(
    "kronos_producers_replaced_total", "Kafka producers replaced after a failed batch"
)
ASSIGNMENTS: Final = Counter("kronos_assignments_total", "Assignments taken", ["stage"])
ASSIGNMENTS_LOST: Final = Counter(
    "kronos_assignments_lost_total", "Memberships lost to a stall or another process"
)
STORE_WAITS: Final = Counter(
    "kronos_store_waits_total", "Calls to the store that failed and are tried again"
)
LAG: Final = Gauge("kronos_lag_records", "Records of the topic not yet dealt with", ["stage"])
EVENT_LAG: Final = Gauge(
    "kronos_event_time_lag_seconds",
    "Event time that the stage is behind what its log shows",
    ["stage", "partition"],
)
"""bars: the broker's time of the last record read, less the watermark. forecast: close time of the
newest bar read, less that of the oldest bar without its forecast; 0 where all have theirs."""
UNFINISHED: Final = Gauge("kronos_forecasts_unfinished", "Bars read whose forecast is not yet out")
WATERMARK: Final = Gauge("kronos_watermark_ms", "Event time reached", ["partition"])
LATENCY: Final = Histogram(
    "kronos_forecast_latency_seconds",
    "From reading the bar to the broker's acknowledgement of its forecast",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
)
"""stage: queue, engine, publish, total."""


HEALTH: Final = Health()
"""What this process says of itself on /healthz and /readyz."""


class _StandardError:
    """Whatever standard error is when a line is written: a live table redirects it, so that the
    line appears above the table."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def forget_partitions(stage: str, numbers: Iterable[int]) -> None:
    """Partitions that are another member's now: their last figures would stand for ever."""
    for number in numbers:
        EVENT_LAG.remove(stage, str(number))
        if stage == "bars":
            WATERMARK.remove(str(number))


def configure(settings: TelemetrySettings) -> None:
    """Logs go to standard error (standard output belongs to the console and to records); the
    metrics server starts if a port is set. SettingsError where that port is taken."""
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    # aiokafka logs what it retries by itself as errors; what it gives up on it raises.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if settings.metrics_port:
        try:
            HealthServer(HEALTH, settings.metrics_port, settings.metrics_host)
        except OSError as error:
            host = f" of {settings.metrics_host}" if settings.metrics_host else ""
            raise SettingsError(
                f"telemetry.metrics_port: expected a free port, {settings.metrics_port}{host} "
                f"cannot be used: {error.strerror}"
            ) from error
