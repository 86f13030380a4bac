"""Hostile inputs for every parser of prefork, made by mutation of good ones, with a seed."""
