"""Configuration, the worker and its recovery, and the wiring that names concrete classes."""
