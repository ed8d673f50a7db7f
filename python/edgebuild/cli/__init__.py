"""The command line: one file a command, and in ``main`` the only place where errors become exit codes."""
