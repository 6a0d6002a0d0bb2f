"""One frozen tree of settings: TOML, then KRONOS_* environment, then flags.

Every field is a key of the TOML file (`[bars] grace_ms = 1000`), an environment variable
(`KRONOS_BARS_GRACE_MS`) and, for the common ones, a flag. Units are in the names.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from .secrets import masked
from .wire.foreign import TickDecoder
from .wire.messages import Symbol

Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]

BUILTIN: Final = "builtin"
"""The name of the model that comes with the package."""
SECRETS: Final = ("password",)
"""Names of keys whose values are never shown."""


def shown(settings: Struct) -> str:
    """A section as it may stand in a log or a traceback."""
    fields = ((f.name, getattr(settings, f.name)) for f in msgspec.structs.fields(settings))
    parts = [
        f"{name}={masked(value)!r}"
        if name == "url" and value is not None
        else f"{name}='***'"
        if name in SECRETS and value is not None
        else f"{name}={value!r}"
        for name, value in fields
    ]
    return f"{type(settings).__name__}({', '.join(parts)})"


class KafkaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker, and how this project's topics and groups are named on it."""

    bootstrap: str | None = None
    """HOST:PORT[,HOST:PORT]; none starts the embedded broker."""
    topic_prefix: Annotated[
        str, Meta(min_length=1, max_length=200, pattern=r"^[a-zA-Z0-9._-]+$")
    ] = "kronos"
    """First part of every topic's name, of which Kafka allows 249 characters."""
    partitions: Positive = 8
    """Of the ticks topic when we create it; an existing topic keeps its own number, an embedded
    broker has 4 of each."""
    replication: Positive = 1
    """Replicas of the topics that we create."""
    partitioner: Literal["murmur2", "crc32", "any"] = "murmur2"
    """How producers of ticks choose partitions: Kafka's rule, librdkafka's, or unknown."""
    group: str | None = None
    """First part of the groups' names, before stage and interval; default: the topic prefix."""
    instance_id: str | None = None
    """Static membership: one id per process, kept over restarts."""
    session_timeout_ms: Positive = 45_000
    heartbeat_ms: Positive = 3_000
    rebalance_timeout_ms: Positive = 60_000
    request_timeout_ms: Positive = 40_000
    watchdog_s: Annotated[float, Meta(ge=0)] = 120.0
    """A process whose position stands still for so long while its topic moves ends; 0: never."""
    max_message_bytes: Positive = 1_000_000
    """The broker's message.max.bytes, which a forecast record must not exceed."""
    security: Literal["plaintext", "tls", "sasl", "sasl_tls"] = "plaintext"
    """How the broker is spoken to: encrypted (tls), with a user (sasl), or both."""
    ca_file: str | None = None
    """PEM certificates that sign the broker's; none: those that the system trusts."""
    cert_file: str | None = None
    """PEM certificate of ours, with its chain, where the broker demands one."""
    key_file: str | None = None
    """PEM key of `cert_file`, where it is not in that file."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    user: str | None = None
    password: str | None = None
    """Never a flag: everybody on the machine sees those."""
    password_file: str | None = None
    """A file that holds the password, such as a mounted secret."""

    def __repr__(self) -> str:
        return shown(self)


class RedisSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The context store; none starts the embedded one."""

    url: str | None = None
    prefix: str = "kronos"
    """First part of every key."""
    timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    user: str | None = None
    """User of the access list, where the address names none."""
    password: str | None = None
    """Where the address holds none. Never a flag: everybody on the machine sees those."""
    password_file: str | None = None
    """A file that holds the password, such as a mounted secret."""
    ca_file: str | None = None
    """With rediss://: PEM certificates that sign the store's; none: those of the system."""
    cert_file: str | None = None
    """With rediss://: PEM certificate of ours, where the store demands one."""
    key_file: str | None = None
    """PEM key of `cert_file`, where it is not in that file."""

    def __repr__(self) -> str:
        return shown(self)


class FeedSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ticks come from."""

    kind: Literal["simulated", "replay", "kafka"] | None = None
    """Default: simulated on the embedded broker, kafka on a named one."""
    file: str | None = None
    """The ticks file of the replay feed."""
    history: str | None = None
    """Bars (parquet, csv or JSON lines; a file, or a folder with one a symbol) for cold symbols."""
    speed: Annotated[float, Meta(gt=0)] = 60.0
    """Virtual seconds per wall second; `inf` (flag: max) writes as fast as the stages take it."""
    seed: Seed = 7
    start_ms: NotNegative = 1_735_689_600_000
    """Virtual time at which the simulated feed begins: 2025-01-01 00:00 UTC. Where every market is
    closed then, when the first one opens."""
    ticks_per_minute: Annotated[float, Meta(gt=0)] = 60.0
    """Mean rate of a simulated symbol; busy and quiet symbols lie a factor around it."""
    duplicates: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of simulated ticks that are written twice."""
    out_of_order: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share that arrives after younger ones, within the grace."""
    late: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share that arrives after its bar was closed."""


class BarsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ticks to bars."""

    interval: Literal["1m", "5m", "15m", "1h"] = "5m"
    grace_ms: NotNegative = 1_000
    """How long after its close time a bar waits for ticks, in time of the log."""
    gaps: Literal["fill", "skip"] = "fill"
    """Intervals without trades: flat synthetic bars, or none."""
    edges: Literal["drop", "keep"] = "drop"
    """Bars that a beginning or the end of a file cuts off: dropped, or kept with complete=false (a
    replay, whose bars stage does not see the end, keeps its last bar without that)."""
    markers: Literal["feed", "owner"] | None = None
    """Default: owner with ticks that others write, else feed."""
    max_ahead_ms: Positive = 60_000
    """A tick further ahead of its own record's timestamp is rejected."""
    scale_digits: Annotated[int, Meta(ge=0, le=18)] = 8
    """Decimal digits of prices and quantities; more are rejected."""
    symbol_scales: dict[Symbol, int] = {}
    """Digits of single symbols, where they differ from `scale_digits`."""
    trade_kind: Literal["trade", "aggTrade"] = "trade"
    """Which of Binance's two payloads is taken; both would count the volume twice."""
    contiguous_ids: bool = False
    """The feed's trade ids have no holes: a hole marks the bar complete=false."""
    calendar: str = "24/7"
    """An exchange_calendars name (XNYS, XSHG, ...) for all symbols, or 24/7 in UTC."""
    symbol_calendars: dict[Symbol, str] = {}
    """Calendars of single symbols."""
    max_rejected_per_s: Annotated[float, Meta(gt=0)] = 1_000.0
    """Rejected and late records above this rate are only counted."""

    def calendar_name(self, symbol: str) -> str:
        """A symbol's own calendar, else the common one."""
        return self.symbol_calendars.get(symbol, self.calendar)

    def tick_decoder(self) -> TickDecoder:
        """Reads ticks as these settings say."""
        return TickDecoder(
            digits=self.scale_digits, symbol_digits=self.symbol_scales, trade_kind=self.trade_kind
        )


class ContextSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bars to rolling context."""

    slack: Positive = 64
    """Bars kept beyond lookback + anchor_every, so that a replay still finds its window."""
    max_missing_bars: NotNegative = 12
    """A context with more missing intervals gives no forecast."""


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model, where and how it runs."""

    model: str = BUILTIN
    """builtin, a folder with model/ and tokenizer/, one checkpoint, or a hub id."""
    tokenizer: str | None = None
    """The tokenizer's folder or hub id, where the model's name does not tell it."""
    revision: str | None = None
    """Hub revision of a hub id."""
    device: str = "cpu"
    """A torch device: cpu, cuda, cuda:1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What weights are multiplied in. bfloat16 pays on a GPU, and on a CPU that multiplies it
    (AVX512-BF16, AMX)."""
    threads: Annotated[int, Meta(ge=0, le=1_024)] = 0
    """CPU threads of the engine process; 0: all cores. Fewer where other work shares them."""
    native: bool = True
    """Compile the engine's kernels with g++ where it is at hand; on a CPU only."""
    max_context: Positive | None = None
    cache_mib: Positive = 2_048
    """Budget of the prefix cache; the least recently used symbol is evicted."""
    max_batch: Positive = 64
    """Symbols in one engine batch."""
    batch_timeout_s: Annotated[float, Meta(gt=0)] = 120.0
    """An engine that takes longer for a batch is restarted."""


class ForecastSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is forecast and how it is sampled."""

    horizon: Positive = 12
    """Bars to forecast."""
    paths: Positive = 20
    """Futures to sample."""
    lookback: Positive | None = None
    """Default: min(400, max_context - horizon - max(1, anchor_every))."""
    anchor_every: NotNegative = 1
    """Bars for which one normalisation is kept; 0: upstream's rule, a new window at each bar."""
    profile: Literal["distribution", "point"] = "distribution"
    """Named sampling settings."""
    temperature: Annotated[float, Meta(ge=1e-6)] | None = None
    """Overrides the profile's (distribution 1.0, point 0.6)."""
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Overrides the profile's (distribution 1.0, point 0.9)."""
    top_k: Annotated[int, Meta(ge=0, le=2**24)] = 0
    """Sample from the k likeliest tokens; 0: all, 1: greedy."""
    seed: Seed = 7
    join: Literal["none", "last_close"] = "last_close"
    """last_close shifts each path by the reconstruction error of the last close."""
    tiny_prices: Literal["skip", "scale"] = "skip"
    """Prices whose std is under 1e-4: no forecast, or scaled by a power of ten."""
    fine_head_rotary: Literal["upstream", "trained", "none"] = "upstream"
    """How the fine head places its query and keys; upstream's checkpoints want upstream."""
    quantile_levels: tuple[Annotated[float, Meta(gt=0, lt=1)], ...] = (
        0.05,
        0.1,
        0.25,
        0.5,
        0.75,
        0.9,
        0.95,
    )
    shed: Literal["on", "off"] | None = None
    """Skip stale forecasts; default: on with ticks that others write, else off."""
    gate_ms: NotNegative = 25
    """How long the burst gate collects symbols that close together."""
    max_batch_ms: Positive = 1_000
    """A running batch is capped at about this long."""


class PublishSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes on the wire."""

    wire: Literal["json", "msgpack"] = "json"
    """How records are encoded; readers are told by a header."""
    paths: bool = False
    """Publish all sampled paths beside the quantiles."""


class TelemetrySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs and metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """/metrics (Prometheus), /healthz and /readyz on this port; 0: none."""
    metrics_host: str = ""
    """The address that they are served on; empty: all."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a run can be told."""

    symbols: tuple[Symbol, ...] | Literal["all"] = ()
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    feed: FeedSettings = FeedSettings()
    bars: BarsSettings = BarsSettings()
    context: ContextSettings = ContextSettings()
    model: ModelSettings = ModelSettings()
    forecast: ForecastSettings = ForecastSettings()
    publish: PublishSettings = PublishSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
