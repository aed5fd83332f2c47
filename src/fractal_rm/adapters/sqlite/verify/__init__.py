"""Verify rows and large values; used by `journal check`, the scrub, and repairs."""
