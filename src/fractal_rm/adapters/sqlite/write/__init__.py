"""What a running node writes into its history."""
