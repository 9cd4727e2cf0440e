"""The commands: one short file per group, each registered in main."""
