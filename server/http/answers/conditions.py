"""What a request's call is conditioned on."""

from server.core.prompts.plan import Call, CompactionPart, Condition, SummaryPart, TextPart
from server.core.tenant import Tenant
from server.http.schemas.conditioning import Conditioned, Part


def call_of(body: Conditioned, tenant: Tenant) -> Call:
    return Call(tenant) if body.context is None else Call(tenant, "context", "context")


def condition_of(body: Conditioned) -> Condition:
    num_expanded = 0 if body.expand is None else body.expand.segments
    return Condition([_part(part) for part in body.parts], body.max_vectors, num_expanded)


def _part(part: Part) -> CompactionPart | SummaryPart | TextPart:
    if part.encrypted_content is not None:
        return CompactionPart(part.encrypted_content)
    return TextPart(part.text or "") if part.summary_id is None else SummaryPart(part.summary_id)
