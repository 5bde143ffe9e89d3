"""From a run's options to its task."""

from tl_jax.data.readers import Columns
from tl_jax.files.errors import ConfigError
from tl_jax.runs.config import FinetuneConfig
from tl_jax.runs.options import given
from tl_jax.tasks.classification import Classification
from tl_jax.tasks.regression import Regression
from tl_jax.tasks.span_qa import SpanQa
from tl_jax.tasks.srl import Srl
from tl_jax.tasks.tagging import Tagging
from tl_jax.tasks.task import Task

# The tasks that an option belongs to, where it does not belong to all.
TEXTS = ("classify", "pair", "regress")
BELONGS = {
    "text_column": TEXTS,
    "pair_column": TEXTS,
    "label_column": TEXTS,
    "split": ("span",),
    "scoring": ("span",),
    "window_step": ("span",),
    "max_query": ("span",),
    "max_answer": ("span",),
    "crf": ("tag",),
    "characters": ("tag",),
    "token_column": ("tag",),
    "tag_column": ("tag",),
}


def task_of(config: FinetuneConfig) -> Task:
    """Makes the task that a run's options name.

    Raises:
      ConfigError: An option belongs to another task.
    """
    _refuse_foreign(config)
    columns = Columns(config.text_column, config.pair_column, config.label_column)
    match config.task:
        case "classify":
            return Classification(columns)
        case "pair":
            return Classification(columns, paired=True)
        case "regress":
            return Regression(columns)
        case "span":
            return SpanQa(
                mode=config.scoring,
                window_step=config.window_step,
                max_query=config.max_query,
                max_answer=config.max_answer,
                titles=config.split,
            )
        case "tag":
            return Tagging(
                crf=config.crf,
                characters=config.characters,
                token_column=config.token_column,
                tag_column=config.tag_column,
            )
        case "srl":
            return Srl()


def _refuse_foreign(config: FinetuneConfig) -> None:
    foreign = [
        f"{flag} (of {', '.join(tasks)})"
        for name, tasks in BELONGS.items()
        for flag in given(config, [name])
        if config.task not in tasks
    ]
    if foreign:
        raise ConfigError(f"{config.task} has no {' and no '.join(foreign)}.")
