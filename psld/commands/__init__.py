"""The commands: one thin file each, from settings to work."""
