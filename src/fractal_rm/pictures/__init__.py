"""Pictures of a flow. Pure: a flow becomes a text, the same each time."""
