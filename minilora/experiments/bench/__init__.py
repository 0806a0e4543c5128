"""Is NumPy as fast as PyTorch with PEFT, on the same two cores? Ask both in the same minute.

Each row is one job, done by us and by the rival, each in a process of its own, on the same data
from the same starting weights; that the first loss agrees to 1e-4 is checked. The two take turns,
many times, and what is reported is the median of the ratios of pairs: on a shared machine seconds
mean little, but whoever disturbs one of a pair disturbs the other, too.

`jobs.py`  what is timed, by name        `ours.py`, `rival.py`  the same job on either side
`pairs.py` processes that take turns     `figure.py`            the picture
"""

from minilora.experiments.bench.jobs import JOBS, Job
from minilora.experiments.bench.pairs import bench

__all__ = ["JOBS", "Job", "bench"]
