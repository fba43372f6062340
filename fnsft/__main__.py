"""``python -m fnsft`` is the ``fnsft`` command."""

from fnsft.cli.main import entry_point

entry_point()
