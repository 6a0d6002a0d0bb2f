"""TLS and SASL for Kafka, as the settings say, in the words of its client."""

import ssl
from typing import Any, Final

from ..errors import SettingsError
from ..secrets import secret
from ..settings import KafkaSettings

PROTOCOLS: Final = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}


def credentials(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for any of the client's classes. SettingsError where a file is none of
    what it should be."""
    if settings.security == "plaintext":
        return {}
    made: dict[str, Any] = {"security_protocol": PROTOCOLS[settings.security]}
    if settings.security.endswith("tls"):
        made["ssl_context"] = _context(settings)
    if settings.security.startswith("sasl"):
        made |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.user,
            "sasl_plain_password": secret("kafka", settings.password, settings.password_file),
        }
    return made


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise _unusable("ca_file", settings.ca_file, error) from None
    if settings.cert_file is not None:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except OSError as error:
            raise _unusable("cert_file", settings.cert_file, error) from None
    return context


def _unusable(name: str, file: str | None, error: OSError) -> SettingsError:
    # An ssl.SSLError is an OSError; its text names the fault, not the content.
    return SettingsError(
        f"kafka.{name}: expected a PEM file that can be used, got {file!r}: {error.strerror}"
    )
