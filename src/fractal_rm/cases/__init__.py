"""Tests of flows: the cases of flows.cases.toml are read, run under virtual time, and judged."""
