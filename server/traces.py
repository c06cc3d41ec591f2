"""Who makes OpenTelemetry's spans and sends them; needs the extra `otel`."""

from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

NAME = "autocompressor"


def open_provider() -> TracerProvider:
    """Makes spans, and sends them in the background to where `OTEL_EXPORTER_OTLP_ENDPOINT` says, by OTLP over HTTP.

    OpenTelemetry's own variables (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables) name the
    service, its sampler and the rest. The caller shuts it down, which sends what is left.
    """
    resource = Resource.create({"service.version": version(NAME)})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": NAME}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
