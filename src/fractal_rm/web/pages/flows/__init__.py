"""The pages of flows.

- `flows`: the list, and one flow. `flow_view` has their values.
- `flow_steps`: what is at each step now, and how often it failed.
- `flow_actions`: pause and resume. `flow_try`: start a run, and watch it.
"""
