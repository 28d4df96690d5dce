"""Seeded days on which much goes wrong at once, and what must hold when they are over: `python -m lab.chaos`.

`world` and `schedule` are drawn from a seed; `stage` plays them in a lab, `faults` are what can go wrong, `invariants`
judges, `runner` does many.
"""
