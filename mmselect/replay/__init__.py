"""Active-learning replay: select, reveal labels, refit heads, measure, on a pool with known labels.

``rounds`` plays one strategy with one seed, ``runs`` plays them all and keeps what is finished,
``comparison`` says which differences are more than noise, ``report`` draws a page.
"""

from mmselect.replay.runs import Replay, replay
from mmselect.replay.summary import summarize

__all__ = ["Replay", "replay", "summarize"]
