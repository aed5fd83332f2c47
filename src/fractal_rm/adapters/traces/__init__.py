"""Exports ended runs as traces (OpenTelemetry). Imported only if ``traces.endpoint`` is set."""
