"""Parameter-efficient fine-tuning: train little, beside a model that stays as it is.

What an adapter is:

`config.py`     what to adapt and how large      `matching.py`       which modules a name means
`lora.py`       one matrix with its adapters     `adapted.py`        what all kinds share
`dora.py`       lengths apart from directions    `pissa.py`          start from W's largest
`embedding.py`  LoRA beside embeddings           `token_rows.py`     single tokens' vectors
`loraplus.py`   let B learn faster than A        `saved_modules.py`  whole modules, in copies

And where it is:

`model.py`      a whole model with its adapters  `adapters.py`       which it has, and which is on
`attaching.py`  which places one takes there     `fitting.py`        whether a file fits the base
`folder.py`     adapters as files, PEFT's        `settings.py`       the settings among them

Names and files are those of Hugging Face PEFT, so that what is learnt here holds there. Begin with
`lora.py`.
"""

from minilora.peft.config import LoraConfig
from minilora.peft.lora import LoraLinear
from minilora.peft.loraplus import loraplus_groups
from minilora.peft.model import PeftModel, get_peft_model

__all__ = ["LoraConfig", "LoraLinear", "PeftModel", "get_peft_model", "loraplus_groups"]
