"""The processes' wing: master, mold, worker's life. Never reads a client's byte."""
