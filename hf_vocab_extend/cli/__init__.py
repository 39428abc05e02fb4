"""The `hf-vocab-extend` command: one file per subcommand."""
