"""Every error of the core has a status and OpenAI's word for whose fault it is."""

from server import errors
from server.errors import ServiceError
from server.http.answers.errors import CLIENT, QUOTA, RATE, SERVER, STATUS, error_detail, status_of

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


def test_every_error_has_a_status() -> None:
    assert STATUS.keys() == {kind for kind in KINDS if kind is not ServiceError}
    codes = [kind.code for kind in STATUS]
    assert len(set(codes)) == len(codes)


def test_whose_fault_an_error_is_follows_from_its_status() -> None:
    for kind in STATUS:
        error = kind("said", param="field")
        detail, status = error_detail(error), status_of(error)
        expected = (
            QUOTA
            if kind is errors.QuotaReached
            else RATE
            if status == 429
            else SERVER
            if status >= 500 or status == 424
            else CLIENT
        )
        assert (detail.message, detail.param, detail.code, detail.type) == ("said", "field", kind.code, expected)
