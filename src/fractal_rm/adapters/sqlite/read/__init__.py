"""What is read from histories: lists, single runs, open runs at a start, runs by trigger id."""
