"""Errors of the command line."""


class CommandError(Exception):
    """A user error, as a one-line message; the program prints it and exits with status 2."""
