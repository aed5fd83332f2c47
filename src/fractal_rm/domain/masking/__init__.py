"""What readers may see: everything that hides values is in this package.

- `facts`: `masked` hides values of a fact: those that its flow does not keep (KEEP, MASK), and all
  values for readers that lack the scope ``payload``. The history, the API, commands, recorded
  cases and backups use it.
- `fields`: finds the fields of MASK in a JSON value.
- `secrets`: finds secrets in texts: those of the configuration, and values of secret keys.
- `responses`: reasons of failures without the text of the response.
- `omitted`: says in a fact that its value is not complete.
"""
