"""The exactly-once protocol as a small model, of which every state is looked at. The decisions in it are those of the real code."""
