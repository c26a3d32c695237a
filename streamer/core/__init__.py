"""What the system decides, without any I/O: no clients, files, clocks, random sources or logging."""
