"""A tenant's salt is in all ids, and nothing that leaves the server tells it."""

from server.core.tenant import Tenant

MODEL, OTHER = "f" * 64, "e" * 64


def test_ids_lists_and_signatures_are_a_tenant_s_own() -> None:
    one, other = Tenant("one"), Tenant("other")
    for made in (Tenant.root, Tenant.owner, lambda tenant, model: tenant.export_key(model, b"secret")):
        assert made(one, MODEL) == made(Tenant("one"), MODEL)
        assert made(one, MODEL) != made(other, MODEL)
        assert made(one, MODEL) != made(one, OTHER)


def test_a_list_s_owner_is_not_what_ids_are_made_of() -> None:
    tenant = Tenant("secret")
    assert len({tenant.root(MODEL), tenant.owner(MODEL), tenant.export_key(MODEL, b"secret").hex()}) == 3
    assert "secret" not in tenant.owner(MODEL)


def test_a_signature_s_key_needs_the_secret() -> None:
    """The salt may be empty, and the fingerprint is public."""
    assert Tenant().export_key(MODEL, b"one") != Tenant().export_key(MODEL, b"other")
