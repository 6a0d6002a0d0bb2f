"""How the store is reached: timeouts, retries, and who we are to it."""

from typing import Any, Final

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import StoreError
from ..secrets import masked, secret
from ..settings import RedisSettings

RETRIES: Final = 3
TRANSIENT: Final = (RedisConnectionError, RedisTimeoutError)
"""Errors after which the same call may work: the store restarts, fails over or is slow."""


def client_of(settings: RedisSettings, url: str) -> redis.Redis:
    """A client that connects when it is first used. StoreError where the address is none."""
    more: dict[str, Any] = {}
    password = secret("redis", settings.password, settings.password_file)
    if settings.user is not None:
        more["username"] = settings.user
    if password is not None:
        more["password"] = password
    if url.startswith("rediss://"):
        # Not in every release the default; what the address says goes before.
        more["ssl_check_hostname"] = True
        more |= {
            name: value
            for name, value in (
                ("ssl_ca_certs", settings.ca_file),
                ("ssl_certfile", settings.cert_file),
                ("ssl_keyfile", settings.key_file or settings.cert_file),
            )
            if value is not None
        }
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), RETRIES),
            retry_on_error=list(TRANSIENT),
            **more,
        )
    except ValueError:
        # Its text may quote a part of the address, and that part may be a password.
        raise StoreError(f"redis.url: expected redis://HOST:PORT/DB, got {masked(url)!r}") from None
