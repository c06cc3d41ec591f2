"""What a request's call is conditioned on."""

from server.core.prompts.plan import Call, Condition, SummaryPart, TextPart
from server.core.tenant import Tenant
from server.http.schemas.conditioning import Conditioned


def call_of(body: Conditioned, tenant: Tenant) -> Call:
    return Call(tenant) if body.context is None else Call(tenant, "context", "context")


def condition_of(body: Conditioned) -> Condition:
    parts = [
        TextPart(part.text or "") if part.summary_id is None else SummaryPart(part.summary_id) for part in body.parts
    ]
    return Condition(parts, body.max_vectors, 0 if body.expand is None else body.expand.segments)
