"""Ready-made apps, written only against the public API."""
