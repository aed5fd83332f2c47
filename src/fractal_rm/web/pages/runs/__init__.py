"""The pages of runs.

- `runs`: the list; `run_query`: its conditions.
- `run`: one run; `run_values`: its values; `run_files`: what a browser can store.
- `waterfall_drawing`: places the bars of a run on a line of time.
- `advice_links`: where a page does what an advice of a story says.
"""
