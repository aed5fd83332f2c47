"""Runs the engine in virtual time, without network, disk or waiting. Test cases of flows use it."""
