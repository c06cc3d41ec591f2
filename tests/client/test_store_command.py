"""`autocompressor store`: what is counted, what is found damaged, what is removed."""

import asyncio
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from model.compressors import SegmentSummary
from server.cli.main import app
from server.core.tenant import Tenant
from server.store import Entry, open_store
from server.store.codec import Manifest, encode_manifest, encode_segment, encode_text
from tests.server.keys import entry


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["store", *arguments])


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Two tenants with a document of two segments each, of other models; a response; one segment to expire at once."""
    address = f"sqlite:{tmp_path / 'store.sqlite3'}"

    async def fill() -> None:
        store = await open_store(address)
        for tenant in ("one", "two"):
            keys = (f"{tenant}a", f"{tenant}b")
            segments = [
                Entry(f"segment:{key}", encode_segment(SegmentSummary(torch.ones(4, 8)), fingerprint=tenant))
                for key in keys
            ]
            texts = [Entry(f"text:{key}", encode_text([1, 2, 3], fingerprint=tenant)) for key in keys]
            references = tuple(entry.key for entry in (*segments, *texts))
            manifest = encode_manifest(Manifest(tenant, keys, (3, 3), 8, 1.0, has_text=True))
            entries = [*segments, *texts, Entry("manifest:m", manifest, references)]
            await store.space(tenant).put_many(entries)
        await store.space("one").put_many([Entry("response:r", b"{}")])
        await store.space("two").put_many([Entry("segment:late", b"x")], ttl_seconds=0.001)
        await store.close()

    asyncio.run(fill())
    return address


def damage(url: str, key: str) -> None:
    async def write() -> None:
        store = await open_store(url)
        await store.space("one").put_many([Entry(key, b"junk")])
        await store.close()

    asyncio.run(write())


def test_a_space_each_is_counted(url: str) -> None:
    done = run("stats", "--store", url)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["space", "one", "two", "all"]
    assert [line[1:3] for line in lines[1:]] == [["6", "1"], ["5", "1"], ["11", "2"]]


def test_where_keys_are_known_their_tenants_are_named(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put() -> None:
        store = await open_store(url)
        await store.space(Tenant("salt").named("team").account).put_many([Entry("a", b"1234")])
        await store.close()

    asyncio.run(put())
    monkeypatch.setenv("AUTOCOMPRESSOR_TENANT_SALT", "salt")
    monkeypatch.setenv("AUTOCOMPRESSOR_API_KEYS", entry("reader", tenant='"team"', stored_bytes=5000))
    lines = run("stats", "--store", url).stdout.splitlines()
    assert [line.split()[3:] for line in lines if "team" in line] == [["4", "team,", "of", "5,000"]]


def test_a_store_that_is_whole_is_told_so(url: str) -> None:
    done = run("verify", "--store", url)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "10 records, 0 damaged, 0 removed; 1 have no checksum" in done.stderr


def test_what_is_damaged_is_named_and_what_nothing_needs_is_removed(url: str) -> None:
    damage(url, "segment:onea")
    damage(url, "segment:loose")
    done = run("verify", "--store", url)
    assert done.exit_code == 1
    assert sorted(done.stdout.splitlines()) == ["one segment:loose", "one segment:onea"]
    done = run("verify", "--remove", "--store", url)
    assert done.exit_code == 1  # one is a document's
    assert "2 damaged, 1 removed" in done.stderr
    assert run("verify", "--store", url).stdout == "one segment:onea\n"


def test_a_damaged_document_goes_with_its_segments(url: str) -> None:
    damage(url, "manifest:m")
    assert run("verify", "--remove", "--store", url).exit_code == 0
    assert run("verify", "--store", url).exit_code == 0


def test_what_has_expired_goes(url: str) -> None:
    done = run("gc", "--store", url)
    assert (done.exit_code, done.stdout) == (0, "1 entries had expired, 0 bytes given back\n")
    assert run("gc", "--store", url).stdout == "0 entries had expired, 0 bytes given back\n"


def test_a_store_that_is_none_or_not_there(tmp_path: Path) -> None:
    none = run("stats", "--store", "mysql://somewhere")
    assert none.exit_code == 2
    assert "a store is sqlite:PATH" in none.stderr
    absent = run("verify", "--store", f"sqlite:{tmp_path}/folder/absent.sqlite3")
    assert (absent.exit_code, list(tmp_path.iterdir())) == (2, [])  # nor is one made
    assert "there is no store sqlite:" in absent.stderr
    gone = run("stats", "--store", "redis://127.0.0.1:1/0")
    assert gone.exit_code == 3


def test_a_store_is_copied_sealed_and_checked(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESSOR_STORE_KEYS", "a" * 32)
    sealed = f"sqlite:{tmp_path / 'folder' / 'sealed.sqlite3'}"
    done = run("migrate", url, sealed)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "11 entries written, 0 were there, 0 could not be read" in done.stderr
    assert "10 records, 0 damaged, 0 removed; 1 have no checksum" in run("verify", "--store", sealed).stderr
    assert run("verify", "--store", url).exit_code == 1  # not sealed, as the keys ask
    damage(sealed, "segment:onea")
    for keys in ("b" * 32, ""):
        monkeypatch.setenv("AUTOCOMPRESSOR_STORE_KEYS", keys)
        done = run("verify", "--remove", "--store", sealed)
        assert done.exit_code == 1
        assert "0 removed" in done.stderr
        assert f"{11 if keys else 10} were not looked at: store_keys are not" in done.stderr
    done = run("migrate", sealed, sealed)
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 10)
    assert run("migrate", f"{url}.none", sealed).exit_code == 2
    monkeypatch.setenv("AUTOCOMPRESSOR_STORE_KEYS", "short")
    assert "a key of store_keys has 5 characters" in run("stats", "--store", sealed).stderr
