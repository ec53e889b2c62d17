"""The exit statuses of every command; 2, for usage errors, is click's own."""

EXIT_REFUSED = 1  # a check failed or a change was refused
EXIT_CONFIG_ERROR = 3  # a setting or file is wrong
