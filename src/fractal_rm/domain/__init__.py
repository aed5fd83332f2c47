"""Values and decisions. No I/O, no asyncio, no clock, no logging."""
