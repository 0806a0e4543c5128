"""Arrays to files and back: safetensors, GGUF, JSON.

Nothing here knows what a model is. A write is whole or did not happen, and a file that cannot be
read for what it should be is a `FormatError` that names it.
"""
