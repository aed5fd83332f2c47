"""What is around every page, and who looks at it.

- `site`: what pages are made from, and how a template becomes a response.
- `visitor`: who looks at a page, and what they may do; the form token.
- `forms`: reads what a form has sent, and the query of a page. `back`: where a browser goes then.
- `notices`: what a page says after a form. `glance`: the bar at the top.
- `assets`: the style sheet, the scripts and the pictures; their versions and licences.
- `pace`: how often an open page reads itself again.
- `text_filters`: times, durations and numbers as people read them.
- `sign_in`, `settings`, `error_pages`: pages of their own.
"""
