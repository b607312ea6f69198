"""What a saga is and what happens next.

Pure: no I/O, no clock, no randomness, no await. Time and jitter come in as arguments (`Given`), ids are
derived from the saga's own counter. The shell around it loads, calls `fold`, stores and sends.
"""
