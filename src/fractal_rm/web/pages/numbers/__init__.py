"""The numbers of pages, asked once for all browsers.

- `recent`: counts and failures of the last hours. `samples`: what the newest runs have recorded.
  `peers`: the answers of other nodes. `own_conditions`: the balancer, other nodes and the disk.
- `kept` keeps an answer for a while; `background` asks what takes longer than a page may take.
- `figures`: rates, durations and troubles from counts. `charts`: bars as SVG.
"""
