"""Verify rows and large values, for `journal check`, the scrub, and repairs."""
