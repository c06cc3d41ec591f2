"""The models that are served, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.core.services import Services
from server.errors import ModelNotFound
from server.tally import current


@dataclass(frozen=True)
class Models:
    """Services by the name of their model, the default one first; a model may have several names."""

    by_name: Mapping[str, Services]

    @property
    def default(self) -> Services:
        return _asked(next(iter(self.by_name.values())))

    @property
    def each(self) -> list[Services]:
        """Every model's, once."""
        return list({id(services): services for services in self.by_name.values()}.values())

    def of(self, fingerprint: str) -> Services:
        """Those of the model of this fingerprint, which is served."""
        return _asked(next(each for each in self.each if each.model.fingerprint == fingerprint))

    def named(self, name: str | None) -> Services:
        """Those of the model of this name, None for the default one; ModelNotFound where it is not served."""
        if name is None:
            return self.default
        if name not in self.by_name:
            served = ", ".join(map(repr, self.by_name))
            are = "are" if len(self.by_name) > 1 else "is"
            raise ModelNotFound(f"there is no model {name!r}; {served} {are} served", param="model")
        return _asked(self.by_name[name])


def _asked(services: Services) -> Services:
    """Note, for the log and the trace of the request, whose model it asks."""
    tally = current()
    if tally is not None:
        tally.model = services.model.name
    return services
