"""The pages of what went wrong.

- `failures`: runs in trouble, those of one kind together; `failure_rows`: their lines.
- `dead`: dead letters; `letters`: their message; `send_letter`: sends one again, or edited.
"""
