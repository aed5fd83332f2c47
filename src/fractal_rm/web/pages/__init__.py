"""The pages: what a browser shows of a node.

- `pages_app`: the application, with the routes of all pages; made at the first request of a page.
- `frame`: what is around every page, and who looks at it.
- `numbers`: rates, charts and recent answers, asked once for all browsers.
- `node`: the overview, the components and the other nodes.
- `flows`: what the flows do, and how well; pause one, or try it.
- `runs`: find runs, and see what one of them did.
- `trouble`: failures of one kind together, and dead letters.
- `actions`: what can be done with one run, or with many.
- `configuration`: what is in force, what it was, and flows.conf to edit.
- `templates/`: one template for each page; `layout.html` has what is around it, `parts.html` has
  what several pages use. `assets/`: the style sheet, the scripts and the icon.
"""
