"""Keys as a file has them: read, found, and refused without a word of what stands in it."""

from pathlib import Path

import pytest

from server.core.callers.keyring import PREFIX, ApiKey, digest_of, new_key, read_keyring
from server.core.tenant import Tenant

KEYS = {name: new_key() for name in ("reader", "writer", "boss")}


def entry(name: str, *more: str, sha256: str = "") -> str:
    return "\n".join(["[[key]]", f'name = "{name}"', f'sha256 = "{sha256 or digest_of(KEYS[name])}"', *more, ""])


def test_keys_are_long_and_all_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 43 for key in keys)


@pytest.mark.parametrize("is_file", [True, False])
def test_a_key_is_found_by_its_hash_alone(tmp_path: Path, is_file: bool) -> None:
    text = (
        entry("reader")
        + entry("writer", 'tenant = "reader"', "requests_per_minute = 60")
        + entry("boss", "admin = true")
    )
    path = tmp_path / "keys.toml"
    path.write_text(text)
    assert not any(key in text for key in KEYS.values())
    keyring = read_keyring(str(path) if is_file else text)
    found = [keyring.find(KEYS[name]) for name in ("reader", "writer", "boss")]
    assert [key and (key.name, key.tenant_name, key.admin) for key in found] == [
        ("reader", "reader", False),
        ("writer", "reader", False),
        ("boss", "boss", True),
    ]
    assert found[1] is not None
    assert found[1].requests_per_minute == 60
    for wrong in (new_key(), "", digest_of(KEYS["reader"]), KEYS["reader"][:-1], KEYS["reader"] + "a", "schlüssel"):
        assert keyring.find(wrong) is None


@pytest.mark.parametrize(
    "text",
    [
        "[nothing]",
        "key = []",
        "[[key",
        entry("reader") + entry("reader"),
        entry("reader") + entry("writer", sha256=digest_of(KEYS["reader"])),
        entry("reader", sha256=KEYS["writer"]),
        entry("reader", f'secret = "{KEYS["writer"]}"'),
        entry("reader", f'tenant = "{KEYS["writer"]}/"'),
        entry("reader", f"tenant = {KEYS['writer']}[]"),
        entry("reader", f'{KEYS["writer"]} = "yes"'),
        f"{KEYS['writer']} = []",
        f'key = [{{ "{KEYS["writer"]}" = 1, "{KEYS["writer"]}" = 2 }}]',
        entry("reader", 'admin = "yes"'),
        entry("reader", "requests_per_minute = 0"),
        entry("reader").replace("reader", "a reader"),
    ],
    ids=map(str, range(15)),  # texts have a key in them that is drawn anew by each process of the tests
)
def test_what_is_no_list_of_keys_is_refused_without_its_words(text: str) -> None:
    """Whoever puts the key itself where its hash belongs should not find it in a log."""
    with pytest.raises(ValueError, match="api_keys") as refused:
        read_keyring(text)
    assert KEYS["writer"] not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_tenant_s_salt_comes_of_its_name_so_that_keys_can_be_changed() -> None:
    tenant = Tenant("salt")
    old, new = (tenant.named(ApiKey(name=name, sha256="0" * 64, tenant="team").tenant_name) for name in ("old", "new"))
    assert old == new
    assert tenant.named("") == tenant
    # what was stored under a key while nobody checked it is its tenant's that has the key's hash for a name
    assert tenant.named(digest_of("key")) == tenant.of_key("key")
    assert len({tenant.named(name).root("model") for name in ("", "a", "b", "team")}) == 4


def test_a_file_that_is_not_there_is_named_and_a_key_in_its_place_is_not(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"api_keys: .*absent.toml cannot be read: No such file"):
        read_keyring(str(tmp_path / "absent.toml"))
    key = new_key()
    with pytest.raises(ValueError, match="api_keys is a key itself") as refused:
        read_keyring(key)
    assert key not in str(refused.value)


def test_keys_of_one_tenant_have_one_quota() -> None:
    reader, same, other = entry("reader", 'tenant = "team"'), 'tenant = "team"', "stored_bytes = 5"
    keys = read_keyring(entry("reader", same, other) + entry("writer", same, other)).keys
    assert [key.stored_bytes for key in keys] == [5, 5]
    with pytest.raises(ValueError, match="of one tenant, 'team', and have different stored_bytes: none and 5"):
        read_keyring(reader + entry("writer", same, other))
