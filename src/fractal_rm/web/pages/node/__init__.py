"""The pages of the node: `overview`, `components` and the other `nodes`."""
