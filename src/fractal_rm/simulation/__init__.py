"""The engine under virtual time: no network, no disk, no waiting. Product code, not only tests'."""
