"""Mappings for `streamer ingest` that come with the package: one YAML file each, named without its ending on the command line."""
