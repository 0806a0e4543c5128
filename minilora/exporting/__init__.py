"""What was tuned here, for the tools that people deploy with.

`merging.py`     an adapter merged into its base, as a Hugging Face folder, and what rounding costs
`gguf.py`        an adapter, or a whole model, for llama.cpp
`vocabulary.py`  a tokenizer as llama.cpp has it
"""

from minilora.exporting.gguf import export_adapter, export_model
from minilora.exporting.merging import MergedArray, merge, save_merged

__all__ = ["MergedArray", "export_adapter", "export_model", "merge", "save_merged"]
