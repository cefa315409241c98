"""The objectives: TRL's trainers behind one face, a file each."""

from fedtune.training.tasks import dpo, grpo, reward, sft
from fedtune.training.tasks.task import Figures, Learner, Shown, Steps, Task

__all__ = ["TASKS", "Figures", "Learner", "Shown", "Steps", "Task"]

TASKS: dict[str, Task] = {
    "sft": sft.TASK,
    "reward": reward.TASK,
    "dpo": dpo.TASK,
    "grpo": grpo.TASK,
}
