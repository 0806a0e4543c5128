"""Parameter-efficient fine-tuning: train little, beside a model that stays as it is.

`config.py`  what to adapt and how large        `lora.py`    one matrix with its adapters
`model.py`   a whole model with its adapters    `folder.py`  adapters as files, in PEFT's format
`pissa.py`   start from W's largest directions  `loraplus.py`  let B learn faster than A

Names and files are those of Hugging Face PEFT, so that what is learnt here holds there.
"""

from minilora.peft.config import LoraConfig
from minilora.peft.lora import LoraLinear
from minilora.peft.loraplus import loraplus_groups
from minilora.peft.model import PeftModel, get_peft_model

__all__ = ["LoraConfig", "LoraLinear", "PeftModel", "get_peft_model", "loraplus_groups"]
