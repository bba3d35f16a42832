"""The command line. Each group of commands is a file; nothing heavy loads before a command runs."""
