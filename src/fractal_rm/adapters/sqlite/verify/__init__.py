"""Verification of rows and large values, shared by `journal check`, the scrub and repairs."""
