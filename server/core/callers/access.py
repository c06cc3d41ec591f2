"""Who is let in: keys, what was revoked of them, and what each has done."""

import logging
import time

from server.core.callers.accounts import Account
from server.core.callers.keyring import ApiKey, Keyring, read_keyring
from server.core.callers.revoked import Revoked
from server.core.tenant import Tenant
from server.errors import KeyNotFound, Unauthorized

logger = logging.getLogger(__name__)


class Access:
    """The keys of a server that has some."""

    def __init__(self, source: str, tenant: Tenant, revoked: Revoked, quotas: dict[str, int] | None = None) -> None:
        """
        Args:
            source: as `read_keyring` takes it.
            tenant: of which the keys' tenants are made.
            quotas: of the store, by its spaces; kept as the keys say.

        Raises:
            OSError, ValueError: as `read_keyring`.
        """
        self._source = source
        self._tenant = tenant
        self._revoked = revoked
        self._quotas = {} if quotas is None else quotas
        self._accounts: dict[str, Account] = {}  # by the hash of their key
        self._keyring = Keyring(())
        self.since = time.time()
        self.unauthorized = 0  # requests without a key that is known
        self._take(read_keyring(source))

    @property
    def accounts(self) -> list[Account]:
        """In the order of their keys."""
        return [self._accounts[key.sha256] for key in self._keyring.keys]

    def named(self, name: str | None) -> Account | None:
        """That of the key of this name, revoked or not; None where there is none any more."""
        return next((account for account in self._accounts.values() if account.key.name == name), None)

    async def account(self, key: str | None) -> Account:
        """Whose key this is.

        Raises:
            Unauthorized: there is none, or it is unknown or revoked. NotReady: whether it was revoked is not known.
        """
        entry = None if key is None else self._keyring.find(key)
        if entry is None or entry.sha256 in await self._revoked.digests():
            self.unauthorized += 1
            raise Unauthorized(
                "this server wants a key: send `Authorization: Bearer KEY`" if key is None else "the key is not valid"
            )
        return self._accounts[entry.sha256]

    async def require_valid(self, account: Account) -> None:
        """Raise as `account` where a key that was let in has gone since."""
        is_there = self._accounts.get(account.key.sha256) is account
        if not is_there or account.key.sha256 in await self._revoked.digests():
            self.unauthorized += 1
            raise Unauthorized("the key is not valid any more")

    async def revoke(self, name: str) -> ApiKey:
        """Let nobody in by the key of this name, here at once and elsewhere in some seconds; whole when it returns.

        Raises:
            KeyNotFound: there is no such key. And what the store raises.
        """
        entry = self._keyring.named(name)
        if entry is None:
            raise KeyNotFound(f"there is no key {name!r}", param="name")
        await self._revoked.add(entry.sha256)
        return entry

    async def revoked(self) -> frozenset[str]:
        """The hashes of keys that are. Raises NotReady."""
        return await self._revoked.digests()

    def reload(self) -> None:
        """Read the keys again; where that fails those from before stay, and the log says why."""
        try:
            keyring = read_keyring(self._source)
        except (OSError, ValueError) as error:
            logger.error("the keys cannot be read again, and stay as they were: %s", error)
            return
        self._take(keyring)
        logger.info("%d keys were read again", len(keyring.keys))

    def _take(self, keyring: Keyring) -> None:
        before, self._accounts = self._accounts, {}
        for key in keyring.keys:
            tenant = self._tenant.named(key.tenant_name)
            account = before.get(key.sha256)
            if account is None:
                account = Account(key, tenant)
            else:
                account.limit(key, tenant)
            self._accounts[key.sha256] = account
        self._keyring = keyring
        self._quotas.clear()
        self._quotas.update(
            {
                account.tenant.account: account.key.stored_bytes
                for account in self._accounts.values()
                if account.key.stored_bytes is not None
            }
        )
