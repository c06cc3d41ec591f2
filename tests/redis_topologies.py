"""Several real Redis servers that know one another, and certificates for them."""

import datetime as dt
import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.redis_server import free_port, running_redis

SERVICE = "summaries"
NUM_SLOTS = 16384


def until(is_so: Callable[[], bool], *, seconds: float = 15, what: str) -> None:
    """Wait until something is so; RuntimeError where it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {seconds} seconds not: {what}")
        time.sleep(0.02)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def ask(url: str, *command: str | int) -> object:
    """What a server answers to one command."""
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*command)


def is_primary(url: str) -> bool:
    """Whether a server is one; not yet, where it closes its connections as it is promoted."""
    try:
        role = ask(url, "ROLE")
    except redis.ConnectionError:
        return False
    assert isinstance(role, list)
    return role[0] == b"master"


@contextmanager
def running_replica(directory: Path, of: str) -> Iterator[str]:
    """A server that follows another, as soon as it has caught up."""
    directory.mkdir()
    with running_redis(directory, arguments=["--replicaof", "127.0.0.1", str(port_of(of))]) as url:
        with redis.Redis.from_url(url) as client:
            until(lambda: client.info("replication").get("master_link_status") == "up", what="the replica caught up")
        with redis.Redis.from_url(of) as client:
            until(lambda: client.info("replication").get("slave0", {}).get("state") == "online", what="it is online")
            # on a busy machine it may be online for seconds before it says what it has
            client.set("caught-up", 1)
            client.delete("caught-up")
            until(lambda: client.wait(1, 500) >= 1, what="it acknowledges what it has")
        yield url


@contextmanager
def running_sentinel(directory: Path, of: str) -> Iterator[int]:
    """A Sentinel that watches a server and fails over after 0.3 seconds; its port."""
    directory.mkdir()
    config = directory / "sentinel.conf"
    lines = [
        f"sentinel monitor {SERVICE} 127.0.0.1 {port_of(of)} 1",
        f"sentinel down-after-milliseconds {SERVICE} 300",
        f"sentinel failover-timeout {SERVICE} 3000",
    ]
    config.write_text("\n".join(lines))
    with running_redis(directory, config=config, arguments=["--sentinel"]) as url:
        with redis.Redis.from_url(url) as client:
            until(
                lambda: client.sentinel_master(SERVICE)["num-slaves"] == 1,
                what="Sentinel knows the replica",
            )
        yield port_of(url)


@contextmanager
def running_cluster(directory: Path) -> Iterator[list[str]]:
    """Three primaries, and a replica of the first one, as URLs."""
    with ExitStack() as stack:
        urls, buses = [], []
        for number in range(4):
            (directory / str(number)).mkdir()
            bus = free_port()
            arguments = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "1000"]
            arguments += ["--repl-ping-replica-period", "1"]  # of a replica without an offset nobody is told
            urls.append(stack.enter_context(running_redis(directory / str(number), arguments=arguments)))
            buses.append(bus)
        for number in range(3):
            first, last = NUM_SLOTS * number // 3, NUM_SLOTS * (number + 1) // 3 - 1
            ask(urls[number], "CLUSTER", "ADDSLOTSRANGE", first, last)
        for url, bus in zip(urls[1:], buses[1:], strict=True):
            ask(urls[0], "CLUSTER", "MEET", "127.0.0.1", port_of(url), bus)
        name = ask(urls[0], "CLUSTER", "MYID")
        assert isinstance(name, bytes)
        until(lambda: name.decode() in str(ask(urls[3], "CLUSTER", "NODES")), what="the replica knows the first node")
        ask(urls[3], "CLUSTER", "REPLICATE", name.decode())
        with redis.Redis.from_url(urls[0]) as first_node:
            until(lambda: first_node.info("replication")["connected_slaves"] == 1, what="the replica is there")
        for url in urls:
            until(
                lambda url=url: "ok" in str(ask(url, "CLUSTER", "INFO")).partition("cluster_state:")[2][:4], what="ok"
            )
            until(lambda url=url: str(ask(url, "CLUSTER", "SLOTS")).count("127.0.0.1") >= 4, what="all are known")
        yield urls


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a server at 127.0.0.1 and a client that it vouches for."""

    authority: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


def make_certificates(directory: Path) -> Certificates:
    """Certificates of a day, with keys, by the package `cryptography`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    authority = _signed(name, name, key, key, is_authority=True)
    path = directory / "authority.pem"
    path.write_bytes(authority.public_bytes(serialization.Encoding.PEM))

    def issued(what: str) -> tuple[Path, Path]:
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, what)])
        certificate, pem = directory / f"{what}.pem", serialization.Encoding.PEM
        certificate.write_bytes(_signed(subject, name, own, key, is_authority=False).public_bytes(pem))
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (directory / f"{what}.key").write_bytes(own.private_bytes(pem, form, none))
        return certificate, directory / f"{what}.key"

    return Certificates(path, issued("server"), issued("client"))


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA256())
    )
