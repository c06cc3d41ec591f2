"""Which model's services a name means."""

from typing import Any

import pytest

from server.core.models import Models
from server.errors import ModelNotFound


def models(*names: str) -> Models:
    made: dict[str, Any] = {name: f"services of {name}" for name in names}
    return Models(made)


def test_no_name_means_the_first_model() -> None:
    assert models("a", "b").named(None) == models("a", "b").default == "services of a"  # type: ignore[comparison-overlap]
    assert models("a", "b").named("b") == "services of b"  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(("names", "told"), [(("a",), "'a' is served"), (("a", "b"), "'a', 'b' are served")])
def test_another_name_is_refused_with_those_that_are_there(names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ModelNotFound, match=f"no model 'c'; {told}") as refused:
        models(*names).named("c")
    assert refused.value.param == "model"
