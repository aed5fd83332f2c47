"""How fast the Runtime Manager is, and what it takes, beside its peers on the same machine."""
