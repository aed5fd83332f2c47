"""Read histories: lists of runs, single runs, open runs at a start, runs by trigger id."""
