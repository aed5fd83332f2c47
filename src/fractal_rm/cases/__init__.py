"""Tests of flows: reads the cases in flows.cases.toml, runs them in virtual time, judges them."""
