"""A broker and a store that demand TLS and a user: the pipeline runs, and no secret is shown."""

import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.faults.proxy import Proxy
from tests.services.kafka import Kafka, Listener
from tests.services.processes import free_ports
from tests.services.valkey import Valkey

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SECRET = "5tr1ctly-c0nfidential"
STORE_SECRET = "n0t-for-the-l0gs"
JAAS = "org.apache.kafka.common.security"
PROPERTIES = """
ssl.keystore.type=PEM
ssl.keystore.location={keys}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.secured.ssl.client.auth=none
listener.name.mutual.ssl.client.auth=required
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secured.plain.sasl.jaas.config={jaas}.plain.PlainLoginModule required \\
  user_kronos="{secret}";
listener.name.secured.scram-sha-256.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
listener.name.secured.scram-sha-512.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
"""


class Secured(NamedTuple):
    """Where the secured servers are, and the files that one needs."""

    sasl: str
    mutual: str
    redis: str
    ca: Path
    client: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("security")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    ca, keys, client = folder / "ca.pem", folder / "server.pem", folder / "client.pem"
    authority.cert_pem.write_to_path(str(ca))
    for file, certificate in ((keys, server), (client, authority.issue_cert("client"))):
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        file.write_bytes(_as_pkcs8(certificate.private_key_pem.bytes()) + chain)
    sasl, mutual = free_ports(2)
    kafka = Kafka(
        listeners=[
            Listener("SECURED", sasl, sasl, "SASL_SSL"),
            Listener("MUTUAL", mutual, mutual, "SSL"),
        ],
        more=PROPERTIES.format(keys=keys, ca=ca, jaas=JAAS, secret=SECRET),
        users=[f"SCRAM-SHA-{n}=[name=kronos,password={SECRET}]" for n in (256, 512)],
    )
    valkey = Valkey(
        *("--user", "default", "off", "--user", "kronos", "on", f">{STORE_SECRET}", "~*", "+@all"),
        user="kronos",
        password=STORE_SECRET,
    )
    # The server in the wheel is built without TLS: what stands before it demands it.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys)
    proxy = Proxy(valkey.port, tls=context)
    yield Secured(
        f"127.0.0.1:{sasl}",
        f"127.0.0.1:{mutual}",
        f"rediss://127.0.0.1:{proxy.port}/0",
        ca,
        client,
    )
    proxy.close()
    kafka.close()
    valkey.close()


def _as_pkcs8(pem: bytes) -> bytes:
    """The only form of a key that Kafka reads."""
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _command(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kronos_stream", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    for secret in (SECRET, STORE_SECRET):
        assert secret not in done.stdout + done.stderr
    return done


def _environment(secured: Secured, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "KRONOS_KAFKA_BOOTSTRAP": secured.sasl,
        "KRONOS_KAFKA_SECURITY": "sasl_tls",
        "KRONOS_KAFKA_CA_FILE": str(secured.ca),
        "KRONOS_KAFKA_USER": "kronos",
        "KRONOS_KAFKA_PASSWORD": SECRET,
        "KRONOS_REDIS_URL": secured.redis,
        "KRONOS_REDIS_CA_FILE": str(secured.ca),
        "KRONOS_REDIS_USER": "kronos",
        "KRONOS_REDIS_PASSWORD": STORE_SECRET,
        **more,
    }


def test_the_whole_pipeline_runs_with_secrets_from_files(
    secured: Secured, topic_prefix: str, tmp_path: Path
) -> None:
    environment = _environment(secured)
    for section, secret in (("KAFKA", SECRET), ("REDIS", STORE_SECRET)):
        file = tmp_path / section
        file.write_text(secret + "\n")
        del environment[f"KRONOS_{section}_PASSWORD"]
        environment[f"KRONOS_{section}_PASSWORD_FILE"] = str(file)
    done = _command(
        environment,
        *("run", "--symbols", "BTCUSDT", "--feed", "simulated", "--speed", "max", "--bars", "2"),
        *("--topic-prefix", topic_prefix, "--partitions", "1", "--log-level", "debug"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("forecast_published") == 2


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_every_mechanism_is_known_to_the_broker(secured: Secured, mechanism: str) -> None:
    environment = _environment(secured, KRONOS_KAFKA_SASL_MECHANISM=mechanism)
    done = _command(environment, "check")
    assert f"kafka: {secured.sasl} answers" in done.stdout
    assert f"redis: {secured.redis} answers" in done.stdout


def test_a_certificate_of_ours_where_the_broker_demands_one(secured: Secured) -> None:
    environment = _environment(
        secured, KRONOS_KAFKA_BOOTSTRAP=secured.mutual, KRONOS_KAFKA_SECURITY="tls"
    )
    refused = _command(environment, "check")
    assert "expected a broker" in refused.stdout
    environment["KRONOS_KAFKA_CERT_FILE"] = str(secured.client)
    assert f"kafka: {secured.mutual} answers" in _command(environment, "check").stdout


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"KRONOS_KAFKA_PASSWORD": "wrong"}, "kafka.bootstrap: expected a broker"),
        ({"KRONOS_KAFKA_SECURITY": "plaintext"}, "kafka.bootstrap: expected a broker"),
        ({"KRONOS_REDIS_PASSWORD": "wrong"}, "redis: no answer at rediss://"),
        ({"KRONOS_REDIS_USER": "default"}, "redis: no answer at rediss://"),
        ({"KRONOS_REDIS_CA_FILE": ""}, "redis: no answer at rediss://"),
    ],
)
def test_who_is_nobody_is_told_so(secured: Secured, change: dict[str, str], told: str) -> None:
    environment = _environment(secured, KRONOS_KAFKA_REQUEST_TIMEOUT_MS="5000", **{})
    done = _command(environment | change, "check")
    assert done.returncode == 1
    assert told in done.stdout


def test_the_settings_are_printed_without_secrets(secured: Secured) -> None:
    done = _command(_environment(secured), "config", "--log-level", "debug")
    assert done.returncode == 0
    assert done.stdout.count('password = "***"') == 2


def test_a_secret_is_no_flag(secured: Secured) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kronos_stream", "config", "--set", "kafka.password=x1y2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "x1y2" not in done.stderr
    assert "KRONOS_KAFKA_PASSWORD" in done.stderr
