"""Flows in the formats of others. Pure: flows and addresses become documents."""
