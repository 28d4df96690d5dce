"""The demo: floating addresses that move between workers and zones, told as a timeline of what the packets saw."""
