"""Is NumPy as fast as PyTorch with PEFT, on the same two cores? Ask both in the same minute.

Each row is one job, done by us and by the rival, each in a process of its own, on the same data
from the same starting weights; that the first loss agrees to 1e-4 is checked. The two take turns,
many times, and what is reported is the median of the ratios of pairs, with their range: on a shared
machine seconds mean little, but whoever disturbs one of a pair disturbs the other, too.

`jobs.py`   what is timed, by name       `ours.py`, `rival.py`  the same job on either side
`side.py`   a process of one side        `worker.py`            what runs in it
`pairs.py`  two of them that take turns  `figure.py`            the picture
`scaling.py`, `scaling_figure.py`        how time and memory grow with each size
"""

from minilora.experiments.bench.jobs import JOBS, Job
from minilora.experiments.bench.pairs import bench

__all__ = ["JOBS", "Job", "bench"]
