"""Backups of a node: `make` makes one, `restore` restores one.

The node may run meanwhile. A backup has a consistent copy of each journal (`journal_copy`), small
files of the state folder, and the configuration files as they are.
"""
