"""Tests of flows, in the words of flows.cases.toml: read, run under virtual time, judged."""
