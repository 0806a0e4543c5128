"""What was tuned here, for the tools that people deploy with.

`merging.py`     an adapter merged into its base, as a Hugging Face folder, and what rounding costs
`peft_script.py` a run, as a script for transformers, PEFT and accelerate
`gguf.py`        an adapter, or a whole model, for llama.cpp
`vocabulary.py`  a tokenizer as llama.cpp has it
"""

from minilora.exporting.gguf import export_adapter, export_model
from minilora.exporting.merging import MergedArray, merge, save_merged
from minilora.exporting.peft_script import export_peft_script

__all__ = [
    "MergedArray",
    "export_adapter",
    "export_model",
    "export_peft_script",
    "merge",
    "save_merged",
]
