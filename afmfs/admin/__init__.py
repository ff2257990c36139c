"""afmctl, the administrator's command line."""
