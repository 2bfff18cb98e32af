"""Shipped sets of gates: what a recipe says of them (options.py), and the gates that follow (expand.py)."""
