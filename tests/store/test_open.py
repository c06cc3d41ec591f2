"""Which stores a URL can name."""

from pathlib import Path

import pytest

from server.store import EmbeddedStore, RedisStore, open_store


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
