"""Doubles of the ports that hold state and keep the ports' contracts (tests/contract runs against them too)."""
