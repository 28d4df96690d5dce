"""What vipmanager costs, measured in the lab with real processes, beside the shortest script for the same calls."""
