"""Runs the engine in virtual time, without network, disk or waiting. Cases of flows use it."""
