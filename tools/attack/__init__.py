"""Attacks on the commands, drawn at random: kills, configurations, damaged files, prompt files.

``python -m tools.attack kills --count 100 --seed 0 --jobs 8`` from the root of a checkout. No try
may end in a traceback, hang, pass what is damaged or lose what was saved.
"""
