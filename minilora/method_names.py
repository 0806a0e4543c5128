"""What the methods are called: by itself, so that the command line is quick to start."""

METHODS = ("full", "lora", "qlora", "dora", "prompt", "prefix", "adapter", "ia3", "bitfit")
# Those that have LoRA's knobs: rank, alpha, target_modules, dropout.
LORAS = ("lora", "qlora", "dora")
# Those that put virtual tokens before the text.
VIRTUAL = ("prompt", "prefix")
# Other knobs, and the methods that have them.
KNOBS = {"tokens": VIRTUAL, "bottleneck": ("adapter",)}
# method → what people call it
LABELS = {
    "full": "full",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "dora": "DoRA",
    "prompt": "prompt",
    "prefix": "prefix",
    "adapter": "adapter",
    "ia3": "IA³",
    "bitfit": "BitFit",
}
