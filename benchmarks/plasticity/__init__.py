"""Continual learning: does a network still learn after a hundred tasks, with Jumpstart and with its peers?"""
