"""The pure core: what an invoice's status is, and what follows from a change.

No module here reads a clock, a socket, a database or a random number; time, tip and rates are arguments.
"""
