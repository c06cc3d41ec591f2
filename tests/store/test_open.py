"""Which stores a URL can name."""

import re
from pathlib import Path

import pytest

from server.store import EmbeddedStore, RedisStore, StoreUnavailable, open_store, shown_url


async def test_a_url_names_its_backend(tmp_path: Path) -> None:
    embedded = await open_store(f"sqlite:{tmp_path / 'new' / 'folder' / 'summaries.sqlite3'}")
    assert isinstance(embedded, EmbeddedStore)
    assert (tmp_path / "new" / "folder" / "summaries.sqlite3").is_file()
    await embedded.close()
    urls = ["redis://localhost:6379/3", "redis://localhost", "rediss://user:secret@localhost:6379/0", "unix:///r"]
    urls += ["redis+sentinel://a:1,b,[::1]:2/some.service-1", "rediss+sentinel://user:secret@a/service/3?protocol=3"]
    urls += ["redis+cluster://a:1,b", "rediss+cluster://user:secret@a/0", "redis://a?wait_replicas=1&wait_fsync=yes"]
    for url in urls:
        store = await open_store(url)
        assert isinstance(store, RedisStore)
        await store.close()


async def test_a_relative_path_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = await open_store("sqlite:summaries.sqlite3")
    await store.close()
    assert (tmp_path / "summaries.sqlite3").is_file()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:///a.db",
            "redis://",
            "redis://h:1/x",
            "postgres://h",
            "a.db",
            "memory",
        ),
        *("redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/a service", "redis+sentinel://h/s/x"),
        *("redis+cluster://h/1", "redis+cluster://", "redis+other://h", "redis+sentinel:///service"),
    ],
)
async def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:PATH"):
        await open_store(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://a,b/0", "several hosts"),
        ("redis+cluster://a,,b", "an empty host"),
        ("redis+sentinel://a:x/service", "the port"),
        ("redis://a/0?sentinel_password=x", "of redis.sentinel:// alone"),
        ("redis+cluster://a?color=1", "color"),
        ("redis+sentinel://a/service?color=1", "color"),
        ("redis://a?wait_replicas=x", "wait_replicas .* not 'x'"),
        ("redis://a?wait_replicas=-1", "wait_replicas .* not '-1'"),
        ("redis://a?wait_fsync=2", "wait_fsync .* yes or no, not '2'"),
        ("redis://a?wait_replicas=1&wait_seconds=0", "wait_seconds .* not '0'"),
        ("redis://a?wait_replicas=1&wait_seconds=2", "less than its socket_timeout.*: 2 and 2"),
        ("redis://a?wait_seconds=1", "neither wait_replicas nor wait_fsync"),
    ],
)
async def test_an_option_that_cannot_work_is_refused_and_named(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        await open_store(url)


async def test_a_refused_url_is_named_without_its_password() -> None:
    with pytest.raises(ValueError, match=r"rdis://\*\*\*@host") as caught:
        await open_store("rdis://user:secret@host")
    assert "secret" not in str(caught.value)


SPELLED = [
    "redis://user:secret@host:6379/0",
    "redis://:secret@host",
    "redis://secret@host",
    "redis://user:sec%72et@host",
    "redis://user:secret%40host:6379",
    "redis://user%3Asecret%40host:6379/0",
    "redis://user:a/secret@host/0",
    "redis://user:a@secret@host/0",
    "redis://user:a?secret@host/0",
    "redis://user:a#secret@host/0",
    "redis://host:secret/0",
    "redis://host/0?password=secret",
    "redis://host/0?pass%77ord=secret&username=u",
    "redis://host/0?password=a@secret",
    "redis://host/0#secret",
    "rediss://user:secret@host/0?ssl_cert_reqs=none",
    "unix://user:secret@/run/redis.sock?db=1",
    "unix:///run/redis.sock?db=1&password=secret",
    "rdis://user:secret@host",
    "redis:user:secret@host",
    "redis:/user:secret@host",
    "user:secret@host",
    "redis%3A//user:secret@host",
    "sqlite://user:secret@host/a.db",
    "REDIS://user:secret@host",
    "redis+sentinel://user:secret@host:6379/service/0",
    "redis+sentinel://user:secret@host,host:6379/service",
    "redis+sentinel://host,user:secret@host/service",
    "redis+sentinel://user:a/secret@host/service",
    "redis+sentinel://user:6379/secret@host/service",
    "redis+sentinel://host:secret,host/service",
    "redis+sentinel://host/service?sentinel_password=secret",
    "redis+sentinel://host/service?sentinel_pass%77ord=secret",
    "redis+sentinel://host/service?password=secret",
    "rediss+sentinel://user:sec%72et@host/service?ssl_cert_reqs=none",
    "redis+cluster://user:secret@host:6379",
    "redis+cluster://user:secret@host,host:6379/0",
    "redis+cluster://host,host:secret",
    "redis+cluster://host?password=secret&wait_replicas=1",
    "redis+cluster://user:a,secret@host",
]


@pytest.mark.parametrize("url", SPELLED)
def test_no_spelling_of_a_url_shows_its_secrets(url: str) -> None:
    shown = shown_url(url)
    assert "secret" not in shown
    assert "%72et" not in shown
    assert "user" not in shown.replace("/run/user", "")


def test_what_is_no_secret_is_shown() -> None:
    assert shown_url("sqlite:/data/a@b.sqlite3") == "sqlite:/data/a@b.sqlite3"
    assert shown_url("redis://host:6379/3") == "redis://host:6379/3"
    assert shown_url("redis://[::1]:6379/3") == "redis://[::1]:6379/3"
    assert shown_url("redis://user:secret@host:6379/3?protocol=3") == "redis://***@host:6379/3?***"
    assert shown_url("redis+sentinel://a:1,[::1]:2/service/3") == "redis+sentinel://a:1,[::1]:2/service/3"
    assert shown_url("redis+cluster://u:p@a:1,b?protocol=3") == "redis+cluster://***@a:1,b?***"
    assert shown_url("unix:///run/redis.sock?db=1") == "unix:///run/redis.sock?***"


@pytest.mark.parametrize("url", [url for url in SPELLED if not url.startswith("sqlite:")])
async def test_no_error_shows_them_either(url: str) -> None:
    url = re.sub("host(:6379)?", "127.0.0.1:1", url)  # where nothing listens, and no name is to be looked up
    with pytest.raises((ValueError, StoreUnavailable)) as caught:
        await (await open_store(url)).ping()
    assert "secret" not in str(caught.value)
