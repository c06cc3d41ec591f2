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
    for url in ("redis://localhost:6379/3", "redis://localhost", "rediss://user:secret@localhost:6379/0", "unix:///r"):
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
    ["", "sqlite:", "sqlite::memory:", "sqlite:///a.db", "redis://", "redis://h:1/x", "postgres://h", "a.db", "memory"],
)
async def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:PATH"):
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
    assert shown_url("unix:///run/redis.sock?db=1") == "unix:///run/redis.sock?***"


@pytest.mark.parametrize("url", [url for url in SPELLED if not url.startswith("sqlite:")])
async def test_no_error_shows_them_either(url: str) -> None:
    url = re.sub("host(:6379)?", "127.0.0.1:1", url)  # where nothing listens, and no name is to be looked up
    with pytest.raises((ValueError, StoreUnavailable)) as caught:
        await (await open_store(url)).ping()
    assert "secret" not in str(caught.value)
