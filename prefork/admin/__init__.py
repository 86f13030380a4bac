"""Health, metrics and the dashboard: an app of its own process, which the server does not depend on."""
