"""What a Redis URL names: one server, the one that Sentinels know, or a cluster; and when a write counts there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus, urlsplit

from server.store.urls import shown_url

# redis-py reads a database that is no number as 0; Sentinels' names for a service have these characters alone
# (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/), and a cluster has one database
SINGLE = re.compile(r"rediss?://[^/?]+(/\d*)?(\?.*)?|unix://.+")
SENTINEL = re.compile(r"rediss?\+sentinel://[^/?]+/(?P<service>[A-Za-z0-9._-]+)(/(?P<db>\d*))?(\?.*)?")
CLUSTER = re.compile(r"rediss?\+cluster://[^/?]+(/0?)?(\?.*)?")
SENTINEL_PORT, PORT = 26379, 6379
SENTINEL_USERNAME, SENTINEL_PASSWORD = "sentinel_username", "sentinel_password"
WAIT_REPLICAS, WAIT_FSYNC, WAIT_SECONDS = "wait_replicas", "wait_fsync", "wait_seconds"
OWN_OPTIONS = frozenset({SENTINEL_USERNAME, SENTINEL_PASSWORD, WAIT_REPLICAS, WAIT_FSYNC, WAIT_SECONDS})
WORDS = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}


@dataclass(frozen=True)
class Acknowledgement:
    """When a write counts: so many replicas have it, the server's append-only file is on its disk, or both."""

    replicas: int = 0
    is_synced: bool = False
    seconds: float = 1.0


@dataclass(frozen=True)
class Address:
    """A URL, read.

    `plain` is what of it redis-py reads: a `redis://`, `rediss://` or `unix://` URL of the first host. `hosts` are
    Sentinels or nodes of a cluster, `service` what Sentinels call the server. `sentinel_login` are options of the
    Sentinels' clients.
    """

    plain: str
    hosts: tuple[tuple[str, int], ...]
    service: str | None
    is_cluster: bool
    sentinel_login: Mapping[str, str]
    acknowledgement: Acknowledgement | None


def is_redis(url: str) -> bool:
    """Whether a URL has one of the forms that `read_address` reads."""
    return any(form.fullmatch(url) for form in (SINGLE, SENTINEL, CLUSTER))


def read_address(url: str) -> Address:
    """Read a URL that `is_redis`; ValueError, which repeats no secret, where a host, a port or an option is wrong."""
    login, hosts = _login_and_hosts(url)
    sentinel, is_cluster = SENTINEL.fullmatch(url), CLUSTER.fullmatch(url) is not None
    address, _, query = url.partition("?")
    own, others = _parted(query)
    plain = address
    if sentinel is not None or is_cluster:
        scheme = address.partition("+")[0]
        path = sentinel["db"] or "" if sentinel is not None else ""
        plain = f"{scheme}://{login}{hosts[0]}/{path}"
    elif len(hosts) > 1:
        raise ValueError(f"the Redis URL {shown_url(url)} has several hosts: redis+sentinel:// and redis+cluster:// do")
    port = SENTINEL_PORT if sentinel is not None else PORT
    named = {name: own[name] for name in (SENTINEL_USERNAME, SENTINEL_PASSWORD) if name in own}
    if named and sentinel is None:
        raise ValueError(f"{next(iter(named))} is an option of redis+sentinel:// alone, not of {shown_url(url)}")
    return Address(
        plain=f"{plain}?{others}" if others else plain,
        hosts=tuple(_host_and_port(host, port) for host in hosts) if not url.startswith("unix:") else (),
        service=None if sentinel is None else sentinel["service"],
        is_cluster=is_cluster,
        sentinel_login={name.removeprefix("sentinel_"): value for name, value in named.items()},
        acknowledgement=_acknowledgement(own),
    )


def _login_and_hosts(url: str) -> tuple[str, list[str]]:
    """What stands before the hosts, with its at sign, and the hosts.

    What redis-py would take for a host or a port and repeat in its errors, though a password is in it, is refused.
    """
    try:
        netloc = urlsplit(url).netloc
        login, at, place = netloc.rpartition("@")
        hosts = place.split(",")
        for host in hosts:
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise ValueError(f"the port of the Redis URL {shown_url(url)} is no number up to 65535") from None
    if re.search("%40|%3a", place.lower()):
        raise ValueError(f"the Redis URL {shown_url(url)} has an encoded '@' or ':' where its host stands")
    if len(hosts) > 1 and not all(urlsplit(f"//{host}").hostname for host in hosts):
        raise ValueError(f"the Redis URL {shown_url(url)} has an empty host")
    return login + at, hosts


def _host_and_port(host: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "localhost", parts.port or port


def _parted(query: str) -> tuple[dict[str, str], str]:
    """Our own options of a query, and the rest of it as it was spelled."""
    own, others = {}, []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if unquote_plus(name) in OWN_OPTIONS:
            own[unquote_plus(name)] = unquote_plus(value)
        else:
            others.append(pair)
    return own, "&".join(others)


def _acknowledgement(own: Mapping[str, str]) -> Acknowledgement | None:
    replicas, synced = own.get(WAIT_REPLICAS, "0"), own.get(WAIT_FSYNC, "no")
    seconds = own.get(WAIT_SECONDS, str(Acknowledgement.seconds))
    if not re.fullmatch(r"\d{1,3}", replicas):
        raise ValueError(f"{WAIT_REPLICAS} of the Redis URL must be a whole number up to 999, not {replicas!r}")
    if synced.lower() not in WORDS:
        raise ValueError(f"{WAIT_FSYNC} of the Redis URL must be yes or no, not {synced!r}")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", seconds) or float(seconds) == 0:  # 0 would be for ever
        raise ValueError(f"{WAIT_SECONDS} of the Redis URL must be from 0.001 to 999.999, not {seconds!r}")
    asked = Acknowledgement(int(replicas), WORDS[synced.lower()], float(seconds))
    if asked.replicas or asked.is_synced:
        return asked
    if WAIT_SECONDS in own:
        raise ValueError(f"{WAIT_SECONDS} of the Redis URL says how long, and neither {WAIT_REPLICAS} nor {WAIT_FSYNC}")
    return None
