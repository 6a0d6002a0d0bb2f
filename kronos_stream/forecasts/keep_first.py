"""Keep-first: a record may be repeated with the same id, and the first one counts."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

import msgspec

from ..telemetry import NUMERIC_VARIANTS
from ..wire.ids import digest
from ..wire.messages import Forecast

REMEMBERED: Final = 100_000


class KeepFirst:
    """Remembers the last `size` ids and a digest of what each said."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._seen: OrderedDict[Hashable, str] = OrderedDict()
        self.repeated = 0
        self.variants = 0

    def is_first(self, forecast: Forecast) -> bool:
        """Whether this id was not seen before; a repeat with other values is counted apart."""
        said = digest(forecast.quantiles, forecast.mean, forecast.context.digest)
        known = self._seen.get(forecast.id)
        if known is None:
            self._seen[forecast.id] = said
            if len(self._seen) > self._size:
                self._seen.popitem(last=False)
            return True
        self.repeated += 1
        if known != said:
            self.variants += 1
            NUMERIC_VARIANTS.inc()
        return False


def comparable(forecast: Forecast) -> Forecast:
    """The forecast without what may differ between two honest makings of it: the clock."""
    zero = msgspec.structs.replace(
        forecast.timing, bar_read=0, engine_start=0, engine_end=0, published=0
    )
    return msgspec.structs.replace(forecast, timing=zero)
