"""The nightly job and its tools; they share the core with the stream and nothing else of it."""
