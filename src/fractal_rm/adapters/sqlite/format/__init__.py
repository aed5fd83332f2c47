"""What is on the disk: tables, statements, checksums, migrations."""
