"""Lesson 00: the map."""

from __future__ import annotations

from minilora.lessons.content import Both, Lesson

LESSON = Lesson(
    number="00",
    slug="start",
    title=Both("Start here", "从这里开始"),
    question=Both(
        "What is fine-tuning, what does it cost, what does it forget, and what does LoRA change "
        "in that?",
        "什么是微调？要付出什么代价，会遗忘什么，LoRA 又改变了什么？",
    ),
    claim=Both(
        "Full fine-tuning needs a data centre and forgets; LoRA trains under one percent, needs "
        "almost nothing and forgets nothing. Every part of that sentence is measured here.",
        "全量微调需要数据中心，而且会遗忘；LoRA 只训练不到百分之一的参数，几乎没有代价，也不遗忘。"
        "这句话的每一部分都会在这里被测量。",
    ),
    knows=Both(
        "Python, NumPy, and what a derivative is. No PyTorch, no GPU.",
        "Python、NumPy 和导数。不需要 PyTorch，也不需要 GPU。",
    ),
    can=Both(
        "find your way: which lesson answers which question, and how the notebooks work.",
        "找到路：哪一课回答哪个问题，以及这些笔记本怎么用。",
    ),
    summary=Both(
        "Guess first, run, compare. Every lesson starts by itself, and can be left at any point.",
        "先猜，再运行，再比较。每一课都可以独立开始，也可以随时停下。",
    ),
    not_shown=Both(
        "preference tuning, training on many machines, safety, and licences.",
        "偏好对齐、多机训练、安全与许可证。",
    ),
    next=Both("why does a 24 GB card not suffice?", "为什么 24 GB 的显卡不够？"),
    minutes=5,
    seconds=5,
)
