"""The data and the decisions of the program, without I/O, asyncio, clocks or logging."""
