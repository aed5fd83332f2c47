"""Write the history of a running node."""
