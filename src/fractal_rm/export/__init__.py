"""Exports flows to formats of other programs, as documents in memory."""
