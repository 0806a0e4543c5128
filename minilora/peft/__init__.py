"""Parameter-efficient fine-tuning: train little, beside a model that stays as it is.

What an adapter is:

`config.py`     what to adapt and how large      `matching.py`       which modules a name means
`lora.py`       one matrix with its adapters     `adapted.py`        what all kinds share
`dora.py`       lengths apart from directions    `pissa.py`          start from W's largest
`embedding.py`  LoRA beside embeddings           `token_rows.py`     single tokens' vectors
`loraplus.py`   let B learn faster than A        `saved_modules.py`  whole modules, in copies

Its relatives, each with what it costs:

`prompt.py`     vectors before the text          `prefix.py`         keys and values before it
`virtual.py`    what these two share             `bottleneck.py`     small networks in the blocks
`ia3.py`        a factor for each channel        `bitfit.py`         the biases, and the norms

And where it is:

`model.py`      a whole model with its adapters  `adapters.py`       which it has, and which is on
`place.py`      a place that one takes there     `attaching.py`      which these are
`fitting.py`    whether a file fits the base
`folder.py`     adapters as files, PEFT's        `settings.py`       the settings among them

And what several of them do together:

`several.py`    share a base, and a batch        `row_wise.py`       each row its own adapter
`weighted.py`   a new adapter out of others      `combining.py`      how numbers become one number

Names and files are those of Hugging Face PEFT, so that what is learnt here holds there. Begin with
`lora.py`.
"""

from minilora.peft.bitfit import BitFitConfig
from minilora.peft.bottleneck import BottleneckConfig
from minilora.peft.config import LoraConfig, PeftConfig
from minilora.peft.ia3 import IA3Config
from minilora.peft.lora import LoraLinear
from minilora.peft.loraplus import loraplus_groups
from minilora.peft.model import PeftModel, get_peft_model
from minilora.peft.prefix import PrefixTuningConfig
from minilora.peft.prompt import PromptTuningConfig

__all__ = [
    "BitFitConfig",
    "BottleneckConfig",
    "IA3Config",
    "LoraConfig",
    "LoraLinear",
    "PeftConfig",
    "PeftModel",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "get_peft_model",
    "loraplus_groups",
]
