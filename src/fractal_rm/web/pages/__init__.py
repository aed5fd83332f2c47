"""The pages: what a browser shows of a node.

- `pages_app`: the application, with the routes of all pages; made at the first request of a page.
- `site`: what pages are made from, and how a template becomes a response.
- `visitor`: who looks at a page, and what they may do; the form token.
- `forms`: reads what a form has sent. `query` reads the query of a page.
- `assets`: the style sheet, the scripts and the pictures; their versions and licences.
- `action_links` and `bulk_links`: the links to the actions on one run, and on all runs of a list.
- `run_actions` and `send_letter`: the actions on one run or dead letter. `subject` reads the run,
  `questions` says what will happen, and `asked` acts, or makes the page of a refusal.
- `bulk`: the actions on many runs; `bulk_question` counts them and finds examples.
- `notices`: what a page says after a form. `filter_links`: conditions in addresses and in words.
- `runs`, `run_query`: the list of runs. `run`, `run_values`, `run_files`, `waterfall_drawing` and
  `advice_links`: one run.
- `recent`: counts and failures of the last hours, `samples`: what the newest runs have recorded,
  `peers`: the answers of other nodes. `kept` and `background` ask for them once for all browsers.
- `figures`: rates, durations and troubles from counts. `charts`: bars as SVG. `glance`: the bar.
- `text_filters`: times, durations and numbers as people read them.
- `templates/`: one template for each page; `layout.html` has what is around it, `parts.html` has
  what several pages use.

Every other module is one page, or one group of forms.
"""
