"""The pages that act.

- `run_actions`: the actions on one run. `subject` reads the run, `questions` and `replay_question`
  say what will happen, in the shape of `question`.
- `bulk`: the actions on many runs. `bulk_question` counts them and finds examples, `bulk_form` has
  the fields, `bulk_replay` what can be chosen for a replay, `bulk_result` how the new runs ended,
  `bulk_words` the words.
- `asked`: acts once for each page, or makes the page of a refusal.
- `action_links` and `bulk_links`: the links to these pages. `filter_links`: conditions on runs in
  addresses and in words.
"""
