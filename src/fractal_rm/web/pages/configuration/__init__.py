"""The pages of the configuration.

- `configuration`: their routes. `config_page`: what is in force, and what is on the disk.
- `config_versions`: the history, differences, and the way back.
- `config_edit`: flows.conf in the browser.
- `files_on_disk`: whether the files have changed since they were applied, and why not.
"""
